/* Algorithm 1 on a CPU in single passes over memory, compiled by _native.py on the machine that runs it.

   _kernels.py says the same as PyTorch's operations, and _threefry.py where the noise comes from; each of
   those operations goes through the cache. Here numbers stay in registers, and all parameters are one call.
   A call is a whole to Python: a signal that comes meanwhile is dealt with afterwards.

   Tensors are of float32 without gaps, `n` to a role; those of one parameter lie alike in memory. */

#include <math.h>
#include <pthread.h>
#include <stdint.h>

typedef const float *restrict Input;
typedef float *restrict Output;

typedef struct {
    float noise_scale, hess_scale, weight, momentum_rate, hess_rate, weight_decay, decay, clip, lr, hess_floor;
} Numbers; /* those of _kernels.Numbers, and noise_scale = 1 / sqrt(ess) */

typedef struct {
    int64_t n, threads;
    const int64_t *sizes;
    const int64_t *starts;        /* where each parameter begins in the noise of the key; or none */
    float *const *tensors;        /* role by role */
    uint64_t key;
    Numbers numbers;
} Task;

/* Of parameter i, the tensor that it has in this role, from entry `at` on. */
static inline float *role(const Task *task, int number, int64_t i, int64_t at) {
    return task->tensors[number * task->n + i] + at;
}

/* ---------------------------------------------------------------- noise: the same numbers as _threefry.py */

#define PAIRS 64
#define BLOCK (2 * PAIRS)

static inline uint32_t turned(uint32_t x, int by) { return x << by | x >> (32 - by); }

/* ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)) with x = 2^e m and sqrt(1/2) < m < sqrt(2). */
static inline float logarithm(float x) {
    union { float number; int32_t bits; } m = {x};
    int32_t exponent = (m.bits - 0x3f3504f3) >> 23; /* the bits of sqrt(1/2) */
    m.bits -= (int32_t)((uint32_t)exponent << 23); /* it may be negative, whose shift is undefined */
    float s = (m.number - 1) / (m.number + 1), z = s * s;
    float series = z * (1.f / 3 + z * (1.f / 5 + z * (1.f / 7 + z * (1.f / 9))));
    return exponent * 0.69314718056f + 2 * (s + s * series);
}

/* Taylor's series, to the last bit of a float from -pi / 2 to pi / 2. */
static inline float cosine(float x) {
    float z = x * x;
    return 1 + z * (-1.f / 2 + z * (1.f / 24 + z * (-1.f / 720 + z * (1.f / 40320 +
           z * (-1.f / 3628800 + z * (1.f / 479001600))))));
}

static inline float sine(float x) {
    float z = x * x;
    return x + x * z * (-1.f / 6 + z * (1.f / 120 + z * (-1.f / 5040 +
           z * (1.f / 362880 + z * (-1.f / 39916800)))));
}

/* The standard normals number BLOCK * block and on. Three short loops, of which the processor then has
   several turns under way at once; one long loop takes half as long again. */
static void fill_block(uint64_t key, int64_t block, Output out) {
    int32_t words[2][PAIRS];
    float radii[PAIRS];
    uint32_t keys[3] = {(uint32_t)key, (uint32_t)(key >> 32)};
    keys[2] = keys[0] ^ keys[1] ^ 0x1BD11BDA;
    uint32_t low = (uint32_t)(block * PAIRS), high = (uint32_t)(block * PAIRS >> 32);
    for (int i = 0; i < PAIRS; i++) {
        uint32_t x0 = low + i + keys[0], x1 = high + keys[1];
#define ROUND(by) x0 += x1; x1 = x0 ^ turned(x1, by);
#define KEYS(step) x0 += keys[(step) % 3]; x1 += keys[((step) + 1) % 3] + (step);
        ROUND(13) ROUND(15) ROUND(26) ROUND(6) KEYS(1)
        ROUND(17) ROUND(29) ROUND(16) ROUND(24) KEYS(2)
        ROUND(13) ROUND(15) ROUND(26) ROUND(6) KEYS(3)
        ROUND(17)
        words[0][i] = (int32_t)x0;
        words[1][i] = (int32_t)x1;
    }
    for (int i = 0; i < PAIRS; i++) {
        float uniform = ((float)(words[0][i] & 0x7FFFFFFF) + 0.5f) * 0x1p-31f;
        float radius = sqrtf(-2 * logarithm(uniform));
        radii[i] = words[0][i] < 0 ? -radius : radius;
    }
    for (int i = 0; i < PAIRS; i++) {
        float angle = (float)words[1][i] * 7.314590396335798e-10f; /* pi / 2^32 */
        out[i] = radii[i] * cosine(angle);
        out[PAIRS + i] = radii[i] * sine(angle);
    }
}

/* The block of numbers that a thread has made last. */
typedef struct {
    int64_t block;
    float numbers[BLOCK];
} Noise;

/* The standard normals number `place` and on. `*count`, how many are wanted, falls to how many there are. */
static inline const float *normals_at(Noise *noise, uint64_t key, int64_t place, int64_t *count) {
    int64_t block = place / BLOCK, offset = place % BLOCK;
    if (block != noise->block) fill_block(key, block, noise->numbers);
    noise->block = block;
    if (*count > BLOCK - offset) *count = BLOCK - offset;
    return noise->numbers + offset;
}

/* ------------------------------------------------------------------------------------------------- threads */

/* What one thread does: the entries from `begin` to `end` of parameter i. */
typedef void Work(const Task *task, Noise *noise, int64_t i, int64_t begin, int64_t end);

typedef struct {
    const Task *task;
    Work *work;
    int64_t number;
    pthread_t id;
    int started;
} Thread;

static int64_t bound(int64_t size, int64_t number, int64_t threads) {
    return size / threads * number + size % threads * number / threads;
}

static void *run_thread(void *argument) {
    const Thread *thread = argument;
    const Task *task = thread->task;
    Noise noise = {.block = -1};
    for (int64_t i = 0; i < task->n; i++) {
        int64_t begin = bound(task->sizes[i], thread->number, task->threads);
        int64_t end = bound(task->sizes[i], thread->number + 1, task->threads);
        if (begin < end) thread->work(task, &noise, i, begin, end);
    }
    return 0;
}

/* A share of every parameter to each thread. Entries do not depend on each other, so shares change no bit. */
static void run(const Task *task, Work *work) {
    Thread threads[task->threads];
    for (int64_t k = task->threads - 1; k >= 0; k--) {
        threads[k] = (Thread){.task = task, .work = work, .number = k};
        threads[k].started = k > 0 && !pthread_create(&threads[k].id, 0, run_thread, &threads[k]);
        if (!threads[k].started) run_thread(&threads[k]);
    }
    for (int64_t k = 1; k < task->threads; k++)
        if (threads[k].started) pthread_join(threads[k].id, 0);
}

/* ------------------------------------------------------------------------------------------- a draw, and back */

static void normals_work(const Task *task, Noise *noise, int64_t i, int64_t begin, int64_t end) {
    for (int64_t at = begin, count; at < end; at += count) {
        count = end - at;
        Input eps = normals_at(noise, task->key, task->starts[i] + at, &count);
        Output out = role(task, 0, i, at);
        for (int64_t j = 0; j < count; j++) out[j] = eps[j];
    }
}

/* Roles: out. */
void ivon_normals(const Task *task) { run(task, normals_work); }

static inline void draw_some(int64_t count, const float *eps, Output params, float *kept, Input hess, Numbers c) {
    for (int64_t j = 0; j < count; j++) {
        float mean = params[j], normal = eps[j]; /* which may lie in `kept` */
        kept[j] = mean;
        params[j] = mean + c.noise_scale * (normal / sqrtf(hess[j] + c.weight_decay));
    }
}

static void draw_work(const Task *task, Noise *noise, int64_t i, int64_t begin, int64_t end) {
    for (int64_t at = begin, count; at < end; at += count) {
        count = end - at;
        float *params = role(task, 0, i, at), *kept = role(task, 1, i, at), *hess = role(task, 2, i, at);
        if (task->starts) {
            Input eps = normals_at(noise, task->key, task->starts[i] + at, &count);
            draw_some(count, eps, params, kept, hess, task->numbers);
        } else {
            draw_some(count, kept, params, kept, hess, task->numbers);
        }
    }
}

/* Roles: params: m <- theta = m + sigma eps (line 7); kept: eps <- m, where eps is there if there are no
   starts; hess. Then `*moved` is 1. */
void ivon_draw(const Task *task, int64_t *moved) {
    run(task, draw_work);
    *moved = 1;
}

static void restore_work(const Task *task, Noise *noise, int64_t i, int64_t begin, int64_t end) {
    (void)noise;
    Output params = role(task, 0, i, 0), kept = role(task, 1, i, 0);
    for (int64_t j = begin; j < end; j++) {
        float mean = kept[j];
        kept[j] = params[j] - mean;
        params[j] = mean;
    }
}

/* Roles: params: theta <- m; kept: m <- theta - m; if they have moved. */
void ivon_restore(const Task *task, int64_t *moved) {
    if (*moved) run(task, restore_work);
    *moved = 0;
}

/* ------------------------------------------------------------------------------------------------- the step */

/* What the products are: noise, to be multiplied by the gradient; of no use, as the gradient is squared; or
   products or squares, ready, or sums of them of total weight `weight`, as the gradients then are. */
enum { NOISE, SQUARED, READY };

static inline void update_some(int64_t begin, int64_t end, Output params, Output hesses, Output momenta,
                               Input grads, Input products, Numbers c, int kind, int times_precision) {
    for (int64_t j = begin; j < end; j++) {
        float hess = hesses[j], grad = grads[j], product = products[j], mean = params[j];
        if (kind == NOISE) product *= grad;
        if (kind == SQUARED) product = grad * grad;
        if (kind == READY) {
            grad /= c.weight;
            product /= c.weight;
        }
        float precision = hess + c.weight_decay;
        float q = times_precision ? hess / precision - c.hess_scale * product
                                  : (hess - c.hess_scale * product) / precision;
        q -= 0.5f * c.hess_rate * q * q;
        hess -= c.hess_rate * precision * q;
        hess = hess < c.hess_floor ? c.hess_floor : hess; /* a NaN stays one, here and below */
        float momentum = momenta[j] + c.momentum_rate * (grad - momenta[j]);
        float direction = (momentum + c.decay * mean) / (hess + c.weight_decay);
        direction = direction > c.clip ? c.clip : direction;
        direction = direction < -c.clip ? -c.clip : direction;
        hesses[j] = hess;
        momenta[j] = momentum;
        params[j] = mean - c.lr * direction;
    }
}

#define UPDATE(name, kind, times_precision)                                                                  \
    static void name(const Task *task, Noise *noise, int64_t i, int64_t begin, int64_t end) {                \
        (void)noise;                                                                                         \
        update_some(begin, end, role(task, 0, i, 0), role(task, 1, i, 0), role(task, 2, i, 0),               \
                    role(task, 3, i, 0), role(task, 4, i, 0), task->numbers, kind, times_precision);         \
    }

UPDATE(update_noise, NOISE, 1)
UPDATE(update_squared, SQUARED, 0)
UPDATE(update_products, READY, 1)
UPDATE(update_squares, READY, 0)

/* Lines 2 to 6 of Algorithm 1, as _kernels.update. Roles: params, hess, momentum, grads, products. */
void ivon_update(const Task *task, int64_t kind, int64_t times_precision) {
    run(task, kind == NOISE      ? update_noise
              : kind == SQUARED  ? update_squared
              : times_precision  ? update_products
                                 : update_squares);
}
