/* The inner loops of packs: from item ids to rows, from rows to vectors, and how files of both are
 * built and checked.
 *
 * It knows memory: strings, flat arrays, blocks of bytes. It does not know files, releases or views;
 * store/pack.py and store/index.py do, and hold every array that is passed here.
 *
 * A look-up of scattered items waits for memory, not for arithmetic. So each loop works on a few
 * dozen ids at a time and asks for what the next step needs before it needs it.
 *
 * Written against Python's stable ABI: one build serves every later Python.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

enum { GROUP = 32, LINE = 64, AHEAD = 6, TRIES = 65536 };
static const uint64_t ODD1 = 0x9E3779B97F4A7C15u, ODD2 = 0xD6E8FEB86659FD93u;

/* ---- ids: SipHash-1-3 (Aumasson, Bernstein: SipHash, a fast short-input PRF, 2012), keyed at
 * random for every index, so that nobody can choose ids that collide. */

typedef struct {
    uint64_t first, second;
} Key;

static uint64_t rotated(uint64_t word, int bits)
{
    return word << bits | word >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = rotated(v[1], 13) ^ v[0], v[0] = rotated(v[0], 32);
    v[2] += v[3], v[3] = rotated(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotated(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotated(v[1], 17) ^ v[2], v[2] = rotated(v[2], 32);
}

static uint64_t hash_bytes(const char *bytes, size_t size, Key key)
{
    uint64_t v[4] = {key.first ^ 0x736f6d6570736575u, key.second ^ 0x646f72616e646f6du,
                     key.first ^ 0x6c7967656e657261u, key.second ^ 0x7465646279746573u};
    uint64_t word, last = (uint64_t)size << 56;
    for (; size >= 8; bytes += 8, size -= 8) {
        memcpy(&word, bytes, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    word = 0;
    memcpy(&word, bytes, size);
    last |= word;
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The bucket is the hash's upper bits; its displacement sends each of its ids to a slot of its own. */
static size_t slot_of(uint64_t hash, uint64_t displacement, uint64_t slots)
{
    uint64_t mixed = (hash + displacement * ODD2) * ODD1;
    return (size_t)(((mixed >> 32) * slots) >> 32);
}

/* ---- arguments */

static int view(PyObject *object, Py_buffer *buffer, int flags)
{
    return PyObject_GetBuffer(object, buffer, flags | PyBUF_C_CONTIGUOUS);
}

/* Reads a key of 16 bytes. */
static int key_of(PyObject *object, Key *key)
{
    Py_buffer bytes;
    if (view(object, &bytes, 0) < 0)
        return 0;
    int good = bytes.len == sizeof *key;
    if (good)
        memcpy(key, bytes.buf, sizeof *key);
    else
        PyErr_SetString(PyExc_ValueError, "a key has 16 bytes");
    PyBuffer_Release(&bytes);
    return good;
}

static int wants(const char *name, Py_ssize_t given, Py_ssize_t wanted)
{
    if (given == wanted)
        return 1;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, not %zd", name, wanted, given);
    return 0;
}

static void release(Py_buffer *buffers, int count)
{
    while (count--)
        PyBuffer_Release(&buffers[count]);
}

/* Views `count` arguments; the last `writable` of them may be written. */
static int views(PyObject *const *arguments, Py_buffer *buffers, int count, int writable)
{
    for (int i = 0; i < count; i++)
        if (view(arguments[i], &buffers[i], i >= count - writable ? PyBUF_WRITABLE : 0) < 0) {
            release(buffers, i);
            return 0;
        }
    return 1;
}

/* ---- hash_ids(offsets int32 [n + 1], data, key, out uint64 [n]) */

static PyObject *hash_ids(PyObject *self, PyObject *const *arguments, Py_ssize_t given)
{
    Py_buffer parts[3];
    Key key;
    if (!wants("hash_ids", given, 4) || !key_of(arguments[2], &key))
        return NULL;
    PyObject *const arrays[] = {arguments[0], arguments[1], arguments[3]};
    if (!views(arrays, parts, 3, 1))
        return NULL;
    const int32_t *offsets = parts[0].buf;
    uint64_t *out = parts[2].buf;
    Py_ssize_t n = parts[2].len / 8;
    int good = parts[0].len >= (n + 1) * 4 && offsets[0] >= 0;
    for (Py_ssize_t i = 0; good && i < n; i++)
        good = offsets[i] <= offsets[i + 1] && offsets[i + 1] <= parts[1].len;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < n; i++)
            out[i] = hash_bytes((const char *)parts[1].buf + offsets[i],
                                (size_t)(offsets[i + 1] - offsets[i]), key);
        Py_END_ALLOW_THREADS
    }
    release(parts, 3);
    if (good)
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "offsets do not fit the data");
    return NULL;
}

/* ---- place(hashes uint64 [n], displacements uint16 [2^bits], slots uint64 [s, 2]) -> placed?
 *
 * Hash and displace (Belazzougui, Botelho, Dietzfelbinger: Hash, displace, and compress, 2009):
 * the fullest buckets choose first, each the smallest displacement that sends its ids to free
 * slots. A slot holds the hash and the row, counted from 1; 0 is a free one. */

typedef struct {
    const uint64_t *hashes;
    uint16_t *displacements;
    uint64_t *slots;
    size_t n, buckets, size;
    int shift;
} Plan;

static int settle(const Plan *plan, const uint32_t *members, size_t count, size_t bucket)
{
    for (size_t i = 1; i < count; i++)
        for (size_t j = 0; j < i; j++)
            if (plan->hashes[members[i]] == plan->hashes[members[j]])
                return 0;
    for (uint64_t d = 0; d < TRIES; d++) {
        size_t done = 0;
        while (done < count) {
            uint64_t hash = plan->hashes[members[done]];
            uint64_t *slot = plan->slots + 2 * slot_of(hash, d, plan->size);
            if (slot[1])
                break;
            slot[0] = hash;
            slot[1] = (uint64_t)members[done++] + 1;
        }
        if (done == count) {
            plan->displacements[bucket] = (uint16_t)d;
            return 1;
        }
        while (done--) {
            uint64_t *slot = plan->slots + 2 * slot_of(plan->hashes[members[done]], d, plan->size);
            slot[0] = slot[1] = 0;
        }
    }
    return 0;
}

/* Returns 1 when all ids are placed, 0 when they cannot be, -1 without memory. */
static int place_all(const Plan *plan)
{
    uint32_t *ends = calloc(plan->buckets + 1, sizeof *ends);
    uint32_t *members = malloc((plan->n + 1) * sizeof *members);
    size_t largest = 0;
    int good = ends && members ? 1 : -1;
    if (good == 1) {
        for (size_t i = 0; i < plan->n; i++)
            ends[(plan->hashes[i] >> plan->shift) + 1]++;
        for (size_t b = 0; b < plan->buckets; b++) {
            largest = ends[b + 1] > largest ? ends[b + 1] : largest;
            ends[b + 1] += ends[b];
        }
        for (size_t i = plan->n; i--;) /* from here on ends[b] moves from the end to the start of b */
            members[--ends[(plan->hashes[i] >> plan->shift) + 1]] = (uint32_t)i;
    }
    for (size_t size = largest; good == 1 && size > 0; size--)
        for (size_t b = 0; good == 1 && b < plan->buckets; b++) {
            size_t start = ends[b + 1], end = b + 2 <= plan->buckets ? ends[b + 2] : plan->n;
            if (end - start == size)
                good = settle(plan, members + start, size, b);
        }
    free(ends);
    free(members);
    return good;
}

static PyObject *place(PyObject *self, PyObject *const *arguments, Py_ssize_t given)
{
    Py_buffer parts[3];
    if (!wants("place", given, 3) || !views(arguments, parts, 3, 2))
        return NULL;
    Plan plan = {parts[0].buf, parts[1].buf, parts[2].buf,
                 (size_t)parts[0].len / 8, (size_t)parts[1].len / 2, (size_t)parts[2].len / 16, 64};
    for (size_t buckets = plan.buckets; buckets > 1; buckets /= 2)
        plan.shift--;
    int good = plan.buckets > 1 && (plan.buckets & (plan.buckets - 1)) == 0 &&
               plan.size >= plan.n && plan.size > 0 && plan.size < UINT32_MAX;
    int placed = 0;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        placed = place_all(&plan);
        Py_END_ALLOW_THREADS
    }
    release(parts, 3);
    if (!good)
        PyErr_SetString(PyExc_ValueError, "buckets must be a power of two, slots at least as many as ids");
    else if (placed < 0)
        PyErr_NoMemory();
    else
        return PyBool_FromLong(placed);
    return NULL;
}

/* ---- find(ids list, key, displacements, slots, rows int64 [n]) -> how many were not found
 *
 * -1 when one of the ids is no string. Text that UTF-8 cannot write is not found: its row is 0. */

enum { FOUND = 1, NO_STRING = 0, FAILED = -1 };

/* Hashes one id. A reference is held meanwhile: an error of the codec may run finalizers. */
static int hash_id(PyObject *ids, Py_ssize_t at, Key key, uint64_t *hash, int *is_text)
{
    PyObject *id = PyList_GetItem(ids, at); /* NULL: a finalizer has shortened the list */
    if (id == NULL)
        return FAILED;
    if (!PyUnicode_Check(id))
        return NO_STRING;
    Py_ssize_t size = 0;
    Py_INCREF(id);
    const char *text = PyUnicode_AsUTF8AndSize(id, &size);
    *is_text = text != NULL;
    if (text != NULL)
        *hash = hash_bytes(text, (size_t)size, key);
    Py_DECREF(id);
    if (text != NULL)
        return FOUND;
    *hash = 0;
    if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return FAILED;
    PyErr_Clear();
    return FOUND;
}

static int find_group(PyObject *ids, Py_ssize_t start, Py_ssize_t count, Key key,
                      const Plan *plan, int64_t *rows)
{
    uint64_t hashes[GROUP];
    const uint64_t *slots[GROUP];
    int is_text[GROUP];
    for (Py_ssize_t i = 0; i < count; i++) {
        int found = hash_id(ids, start + i, key, &hashes[i], &is_text[i]);
        if (found != FOUND)
            return found;
        PREFETCH(plan->displacements + (hashes[i] >> plan->shift));
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        uint64_t displacement = plan->displacements[hashes[i] >> plan->shift];
        slots[i] = plan->slots + 2 * slot_of(hashes[i], displacement, plan->size);
        PREFETCH(slots[i]);
    }
    for (Py_ssize_t i = 0; i < count; i++)
        rows[start + i] = is_text[i] && slots[i][0] == hashes[i] ? (int64_t)slots[i][1] : 0;
    return FOUND;
}

static PyObject *find(PyObject *self, PyObject *const *arguments, Py_ssize_t given)
{
    Py_buffer parts[3];
    Key key;
    if (!wants("find", given, 5) || !key_of(arguments[1], &key) ||
        !views(arguments + 2, parts, 3, 1))
        return NULL;
    PyObject *ids = arguments[0];
    int64_t *rows = parts[2].buf;
    Plan plan = {NULL, parts[0].buf, parts[1].buf,
                 0, (size_t)parts[0].len / 2, (size_t)parts[1].len / 16, 64};
    for (size_t buckets = plan.buckets; buckets > 1; buckets /= 2)
        plan.shift--;
    Py_ssize_t n = PyList_Check(ids) ? PyList_Size(ids) : -1, missing = 0;
    if (n < 0 || n * 8 != parts[2].len || plan.buckets < 2 || plan.size < 1) {
        release(parts, 3);
        PyErr_SetString(PyExc_ValueError, "ids must be a list, rows int64 of its length");
        return NULL;
    }
    for (Py_ssize_t start = 0; start < n; start += GROUP) {
        Py_ssize_t end = start + GROUP < n ? start + GROUP : n;
        Py_ssize_t next = end + GROUP < n ? end + GROUP : n;
        for (Py_ssize_t i = end; i < next && PyList_Size(ids) == n; i++) { /* the next group */
            const char *id = (const char *)PyList_GetItem(ids, i);
            PREFETCH(id);
            PREFETCH(id + LINE);
        }
        int found = find_group(ids, start, end - start, key, &plan, rows);
        if (found != FOUND) {
            missing = -1;
            break;
        }
        for (Py_ssize_t i = start; i < end; i++)
            missing += rows[i] == 0;
    }
    release(parts, 3);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(missing);
}

/* ---- gather(vectors [n, row_bytes], row_bytes, rows int64 [m], out [m, row_bytes], seen, shift)
 *
 * Copies nothing and returns False when a row lies in a block whose `seen` byte is 0. */

static int all_seen(const int64_t *rows, size_t m, const char *seen, int shift)
{
    for (size_t i = 0; i < m; i++)
        if (!seen[rows[i] >> shift])
            return 0;
    return 1;
}

static void copy_rows(const char *vectors, size_t width, const int64_t *rows, size_t m, char *out)
{
    for (size_t i = 0; i < m; i++) {
        if (i + AHEAD < m) {
            const char *soon = vectors + (uint64_t)rows[i + AHEAD] * width;
            for (size_t line = 0; line < width; line += LINE)
                PREFETCH(soon + line);
        }
        memcpy(out + i * width, vectors + (uint64_t)rows[i] * width, width);
    }
}

static PyObject *gather(PyObject *self, PyObject *const *arguments, Py_ssize_t given)
{
    Py_buffer parts[4];
    if (!wants("gather", given, 6))
        return NULL;
    size_t width = PyLong_AsSize_t(arguments[1]);
    long shift = PyErr_Occurred() ? 0 : PyLong_AsLong(arguments[5]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *const arrays[] = {arguments[0], arguments[2], arguments[4], arguments[3]};
    if (!views(arrays, parts, 4, 1))
        return NULL;
    const int64_t *rows = parts[1].buf;
    size_t m = (size_t)parts[1].len / 8;
    uint64_t n = width ? (uint64_t)parts[0].len / width : 0;
    int good = m * width == (size_t)parts[3].len && shift >= 0 && shift < 63 && n > 0 &&
               (n - 1) >> shift < (uint64_t)parts[2].len;
    for (size_t i = 0; good && i < m; i++)
        good = (uint64_t)rows[i] < n;
    int seen = good && all_seen(rows, m, parts[2].buf, (int)shift);
    if (seen) {
        Py_BEGIN_ALLOW_THREADS
        copy_rows(parts[0].buf, width, rows, m, parts[3].buf);
        Py_END_ALLOW_THREADS
    }
    release(parts, 4);
    if (good)
        return PyBool_FromLong(seen);
    PyErr_SetString(PyExc_IndexError, "a row is out of range, or out does not fit the rows");
    return NULL;
}

/* ---- checksums(data, block_bytes, blocks int64 [m], out uint64 [m])
 *
 * The checksum of every listed block; the last block of the data may be shorter. Eight chains side
 * by side, each step one to one: whatever changes within one 8-byte word changes the checksum. The
 * step is the finalizer of MurmurHash3 (Appleby), which lets no pattern of bits cancel another. */

static uint64_t step(uint64_t state, uint64_t word)
{
    state ^= word;
    state = (state ^ state >> 33) * 0xff51afd7ed558ccdu;
    state = (state ^ state >> 33) * 0xc4ceb9fe1a85ec53u;
    return state ^ state >> 33;
}

static uint64_t checksum(const char *bytes, size_t size)
{
    uint64_t chains[8] = {1, 2, 3, 4, 5, 6, 7, 8}, words[8], sum;
    sum = step(0, size);
    for (; size >= 64; bytes += 64, size -= 64) {
        memcpy(words, bytes, 64);
        for (int i = 0; i < 8; i++)
            chains[i] = step(chains[i], words[i]);
    }
    memset(words, 0, 64);
    memcpy(words, bytes, size);
    for (int i = 0; i < 8; i++)
        sum = step(sum, step(chains[i], words[i]));
    return sum;
}

static PyObject *checksums(PyObject *self, PyObject *const *arguments, Py_ssize_t given)
{
    Py_buffer parts[3];
    if (!wants("checksums", given, 4))
        return NULL;
    size_t block = PyLong_AsSize_t(arguments[1]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *const arrays[] = {arguments[0], arguments[2], arguments[3]};
    if (!views(arrays, parts, 3, 1))
        return NULL;
    const int64_t *blocks = parts[1].buf;
    uint64_t *out = parts[2].buf;
    size_t size = (size_t)parts[0].len, m = (size_t)parts[1].len / 8;
    uint64_t count = block ? (size + block - 1) / block : 0;
    int good = block > 0 && m * 8 == (size_t)parts[2].len;
    for (size_t i = 0; good && i < m; i++)
        good = (uint64_t)blocks[i] < count;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        for (size_t i = 0; i < m; i++) {
            size_t start = (size_t)blocks[i] * block;
            size_t here = size - start < block ? size - start : block;
            out[i] = checksum((const char *)parts[0].buf + start, here);
        }
        Py_END_ALLOW_THREADS
    }
    release(parts, 3);
    if (good)
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_IndexError, "a block is out of range, or out does not fit the blocks");
    return NULL;
}

/* ---- prefix_rows(vectors float32 [n, width], width, out float32 [n, dim], dim)
 *
 * The first `dim` coordinates of every row, rescaled to unit length; zero rows stay zero. */

static void prefix_row(const float *row, size_t dim, float *out)
{
    double sums[8] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 8 <= dim; i += 8)
        for (size_t j = 0; j < 8; j++)
            sums[j] += (double)row[i + j] * row[i + j];
    for (; i < dim; i++)
        sum += (double)row[i] * row[i];
    for (size_t j = 0; j < 8; j++)
        sum += sums[j];
    double norm = sum > 0 ? sqrt(sum) : 1;
    for (i = 0; i < dim; i++)
        out[i] = (float)(row[i] / norm);
}

static PyObject *prefix_rows(PyObject *self, PyObject *const *arguments, Py_ssize_t given)
{
    Py_buffer parts[2];
    if (!wants("prefix_rows", given, 4))
        return NULL;
    size_t width = PyLong_AsSize_t(arguments[1]);
    size_t dim = PyErr_Occurred() ? 0 : PyLong_AsSize_t(arguments[3]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *const arrays[] = {arguments[0], arguments[2]};
    if (!views(arrays, parts, 2, 1))
        return NULL;
    size_t n = width ? (size_t)parts[0].len / (4 * width) : 0;
    int good = 0 < dim && dim <= width && n * 4 * dim == (size_t)parts[1].len;
    if (good) {
        const float *vectors = parts[0].buf;
        float *out = parts[1].buf;
        Py_BEGIN_ALLOW_THREADS
        for (size_t row = 0; row < n; row++)
            prefix_row(vectors + row * width, dim, out + row * dim);
        Py_END_ALLOW_THREADS
    }
    release(parts, 2);
    if (good)
        Py_RETURN_NONE;
    PyErr_SetString(PyExc_ValueError, "out does not hold a prefix of the vectors");
    return NULL;
}

static PyMethodDef methods[] = {
    {"hash_ids", (PyCFunction)(void (*)(void))hash_ids, METH_FASTCALL, NULL},
    {"place", (PyCFunction)(void (*)(void))place, METH_FASTCALL, NULL},
    {"find", (PyCFunction)(void (*)(void))find, METH_FASTCALL, NULL},
    {"gather", (PyCFunction)(void (*)(void))gather, METH_FASTCALL, NULL},
    {"checksums", (PyCFunction)(void (*)(void))checksums, METH_FASTCALL, NULL},
    {"prefix_rows", (PyCFunction)(void (*)(void))prefix_rows, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_lookup", "The inner loops of a look-up.", 0, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__lookup(void) { return PyModuleDef_Init(&module); }
