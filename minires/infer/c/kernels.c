/* The kernels of an exported model; `text.py` copies the sections that a model needs into its file.
 *
 * A value of shape (1, c, h, w) lies in memory as h rows of w pixels of c numbers: the channels of a pixel side by side, so
 * that the inner loops of all kernels run over neighbours and a compiler makes vectors of them. Other values lie in C order.
 * Every size is a constant where a kernel is called, and every kernel is inlined there: the compiler knows all trip counts.
 * No pointer is `restrict`: where the kernels stand a compiler sees which parts of the static memory they are, and GCC 12 at -O2
 * takes a function for one without effects, and drops its calls, when a vectorised loop in it stores through such a pointer.
 * A section begins at a line like the next one; what it `needs` is copied, too.
 */

/*= inline */
/* Kernels are inlined whatever a compiler's own counting says: with all sizes known most of their text falls away. The steps
 * that call them are not: one function of all steps would take long to compile. */
#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#else
#define INLINE static inline
#define NOINLINE
#endif

/*= relu needs inline */
/* max(v, 0). A NaN is not below 0 and stays. */
INLINE real relu(real v)
{
    return v < 0 ? 0 : v;
}

/*= clamp needs inline */
/* v in [low, high]; a NaN stays. */
INLINE real clamp(real v, real low, real high)
{
    const real above = v < low ? low : v;
    return above > high ? high : above;
}

/*= sigmoid needs inline */
/* 1 / (1 + e^-v). Where e^-v is too large for a number it is infinite, and 1 / infinity = 0 is right. */
INLINE real sigmoid(real v)
{
    return 1 / (1 + EXP(-v));
}

/*= vector */
/* Numbers side by side that fit a register; where the compiler has no such type, or with -DMINIRES_NO_VECTORS, one number.
 * TILE is how many pixels a convolution sums at once: TILE x 64 bytes of sums, 64 bytes of weights and a number of x must fit
 * the registers (16 of 32 bytes with AVX, 16 of 16 bytes with SSE, 32 of 16 bytes on 64-bit ARM). */
#if defined(__GNUC__) && !defined(MINIRES_NO_VECTORS)
#ifdef __AVX__
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#endif
#ifdef VECTOR_BYTES
typedef real vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#else
typedef real vector;
#endif
#if defined(__AVX__) || defined(__aarch64__)
#define TILE 6
#else
#define TILE 3
#endif
#define LANES (64 / sizeof(real))          /* output channels whose sums are held at once, at most */
#define WIDTH (sizeof(vector) / sizeof(real))

/*= conv2d needs inline relu vector */
struct conv2d {
    size_t c_in, c_out, groups;            /* channels of a pixel of x and y; a group has c_in / groups and c_out / groups */
    size_t h_out, w_out;                   /* rows and columns of y */
    size_t taps_h, taps_w, run;            /* the window: taps_h x taps_w runs of `run` numbers that lie side by side in x */
    size_t tap_h, tap_w;                   /* numbers of x from a run to the next one below, to the right */
    size_t step_h, step_w;                 /* numbers of x from an output's window to the next one's below, to the right */
    size_t lanes;                          /* output channels of a block: LANES or LANES / 2 */
    size_t tile;                           /* pixels of a block: TILE, or 1 where y has no more */
    int relu;
};

/* y[pixel][k] = relu(bias[k] + sum over the window of x weight[k] + shortcut[pixel][k])
 *
 *     for each group, each block of `lanes` output channels k, each `tile` pixels p
 *         sums[p][k] = 0                                            in registers, to the end
 *         for each run of the window, each number of the run
 *             sums[p][k] += x[p's window, number] weight[number][k]
 *
 * x is padded already. weight: [group][block][taps_h][taps_w][run][lanes], as the loops read it, zeros behind the last
 * channel. bias and shortcut may be NULL. A last tile that is not full sums its last pixel again and again, and does not
 * store it. */
INLINE void conv2d(const real *x, const real *weight, const real *bias,
                   const real *shortcut, real *y, const struct conv2d g)
{
    const size_t pixels = g.h_out * g.w_out, mine = g.c_out / g.groups, vectors = g.lanes / WIDTH;

    for (size_t group = 0; group < g.groups; group++)
        for (size_t block = 0; block < mine; block += g.lanes, weight += g.taps_h * g.taps_w * g.run * g.lanes)
            for (size_t first = 0; first < pixels; first += g.tile) {
                const real *window[TILE], *w = weight;
                vector sums[TILE][LANES / WIDTH];
                for (size_t t = 0; t < g.tile; t++) {
                    const size_t p = first + t < pixels ? first + t : pixels - 1;
                    window[t] = x + group * (g.c_in / g.groups) + p / g.w_out * g.step_h + p % g.w_out * g.step_w;
                    for (size_t v = 0; v < vectors; v++)
                        sums[t][v] = (vector){0};
                }
                for (size_t i = 0; i < g.taps_h; i++)
                    for (size_t j = 0; j < g.taps_w; j++) {
                        const size_t start = i * g.tap_h + j * g.tap_w;
                        for (size_t k = 0; k < g.run; k++, w += g.lanes)
                            for (size_t t = 0; t < g.tile; t++)
                                for (size_t v = 0; v < vectors; v++)
                                    sums[t][v] += window[t][start + k] * ((const vector *)w)[v];
                    }
                const size_t k0 = group * mine + block;
                const size_t kept = mine % g.lanes == 0 || mine - block > g.lanes ? g.lanes : mine - block;
                for (size_t t = 0; t < g.tile && first + t < pixels; t++) {
                    real sum[LANES];
                    memcpy(sum, sums[t], g.lanes * sizeof(real));
                    const size_t at = (first + t) * g.c_out + k0;
                    for (size_t k = 0; k < kept; k++) {
                        const real biased = bias ? sum[k] + bias[k0 + k] : sum[k];
                        const real total = shortcut ? biased + shortcut[at + k] : biased;
                        y[at + k] = g.relu ? relu(total) : total;
                    }
                }
            }
}

/*= pad_image needs inline */
/* x (h, w, c) with `top`, `bottom` rows and `left`, `right` columns of zeros around it. */
INLINE void pad_image(const real *x, real *y, size_t h, size_t w, size_t c, size_t top, size_t bottom,
                      size_t left, size_t right)
{
    const size_t row = (left + w + right) * c;

    memset(y, 0, (top * row + left * c) * sizeof(real));
    for (size_t r = 0; r < h; r++) {
        real *to = y + (top + r) * row + left * c;
        memcpy(to, x + r * w * c, w * c * sizeof(real));
        /* What is right of this row and left of the next one lies side by side. */
        if (r + 1 < h)
            memset(to + w * c, 0, (right + left) * c * sizeof(real));
    }
    memset(y + (top + h - 1) * row + (left + w) * c, 0, (right * c + bottom * row) * sizeof(real));
}

/*= depthwise needs inline relu */
struct depthwise {
    size_t c, h_out, w_out, k_h, k_w;
    size_t tap_h, tap_w, step_h, step_w;   /* as in conv2d */
    int relu;
};

/* conv2d with a group a channel: y[pixel][k] = relu(bias[k] + sum over taps of x[tap][k] weight[tap][k] + shortcut[pixel][k]).
 * The sums grow in y, a pixel's channels at a time. */
INLINE void depthwise(const real *x, const real *weight, const real *bias,
                      const real *shortcut, real *y, const struct depthwise g)
{
    for (size_t r = 0; r < g.h_out; r++)
        for (size_t s = 0; s < g.w_out; s++, y += g.c) {
            for (size_t k = 0; k < g.c; k++)
                y[k] = 0;
            for (size_t i = 0; i < g.k_h; i++)
                for (size_t j = 0; j < g.k_w; j++) {
                    const real *tap = x + r * g.step_h + s * g.step_w + i * g.tap_h + j * g.tap_w;
                    const real *w = weight + (i * g.k_w + j) * g.c;
                    for (size_t k = 0; k < g.c; k++)
                        y[k] += tap[k] * w[k];
                }
            for (size_t k = 0; k < g.c; k++) {
                const real biased = bias ? y[k] + bias[k] : y[k];
                const real total = shortcut ? biased + shortcut[(r * g.w_out + s) * g.c + k] : biased;
                y[k] = g.relu ? relu(total) : total;
            }
        }
}

/*= pool2d */
struct pool2d {
    size_t c, h, w, h_out, w_out, k_h, k_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

/*= max_pool2d needs inline pool2d */
/* The largest number of each window. Padding does not count; a NaN wins and stays. */
INLINE void max_pool2d(const real *x, real *y, const struct pool2d g)
{
    for (size_t r = 0; r < g.h_out; r++)
        for (size_t s = 0; s < g.w_out; s++, y += g.c) {
            for (size_t k = 0; k < g.c; k++)
                y[k] = -INFINITY;
            for (size_t i = 0; i < g.k_h; i++) {
                const size_t row = r * g.stride_h + i * g.dilation_h;      /* counted from the padding's first row */
                if (row < g.pad_h || row >= g.pad_h + g.h)
                    continue;
                for (size_t j = 0; j < g.k_w; j++) {
                    const size_t column = s * g.stride_w + j * g.dilation_w;
                    if (column < g.pad_w || column >= g.pad_w + g.w)
                        continue;
                    const real *tap = x + ((row - g.pad_h) * g.w + column - g.pad_w) * g.c;
                    for (size_t k = 0; k < g.c; k++)
                        y[k] = tap[k] > y[k] || tap[k] != tap[k] ? tap[k] : y[k];
                }
            }
        }
}

/*= avg_pool2d needs inline pool2d */
/* How many rows (columns) of window r count, of `size` with `pad` zeros on both sides. What a last window has beyond the
 * padding never counts. */
INLINE size_t counted(size_t r, size_t k, size_t stride, size_t size, size_t pad, int count_pad)
{
    const size_t room = count_pad ? size + 2 * pad : size + pad;
    const size_t end = r * stride + k < room ? r * stride + k : room;
    const size_t start = count_pad || r * stride > pad ? r * stride : pad;
    return end - start;
}

/* The mean of each window: its sum by `divisor`, or, where that is 0, by how many of its numbers count. */
INLINE void avg_pool2d(const real *x, real *y, const struct pool2d g, int count_pad, real divisor)
{
    for (size_t r = 0; r < g.h_out; r++)
        for (size_t s = 0; s < g.w_out; s++, y += g.c) {
            for (size_t k = 0; k < g.c; k++)
                y[k] = 0;
            for (size_t i = 0; i < g.k_h; i++) {
                const size_t row = r * g.stride_h + i;
                if (row < g.pad_h || row >= g.pad_h + g.h)
                    continue;
                for (size_t j = 0; j < g.k_w; j++) {
                    const size_t column = s * g.stride_w + j;
                    if (column < g.pad_w || column >= g.pad_w + g.w)
                        continue;
                    const real *tap = x + ((row - g.pad_h) * g.w + column - g.pad_w) * g.c;
                    for (size_t k = 0; k < g.c; k++)
                        y[k] += tap[k];
                }
            }
            const size_t count = counted(r, g.k_h, g.stride_h, g.h, g.pad_h, count_pad)
                * counted(s, g.k_w, g.stride_w, g.w, g.pad_w, count_pad);
            const real by = divisor < 0 || divisor > 0 ? divisor : (real)count;
            for (size_t k = 0; k < g.c; k++)
                y[k] /= by;
        }
}

/*= adaptive_avg_pool2d needs inline */
/* The mean of each of h_out x w_out regions; rows [floor(r h / h_out), ceil((r + 1) h / h_out)), columns alike. */
INLINE void adaptive_avg_pool2d(const real *x, real *y, size_t c, size_t h, size_t w, size_t h_out,
                                size_t w_out)
{
    for (size_t r = 0; r < h_out; r++)
        for (size_t s = 0; s < w_out; s++, y += c) {
            const size_t top = r * h / h_out, bottom = ((r + 1) * h + h_out - 1) / h_out;
            const size_t left = s * w / w_out, right = ((s + 1) * w + w_out - 1) / w_out;
            for (size_t k = 0; k < c; k++)
                y[k] = 0;
            for (size_t i = top; i < bottom; i++)
                for (size_t j = left; j < right; j++)
                    for (size_t k = 0; k < c; k++)
                        y[k] += x[(i * w + j) * c + k];
            for (size_t k = 0; k < c; k++)
                y[k] /= (real)((bottom - top) * (right - left));
        }
}

/*= adaptive_max_pool2d needs inline */
/* The largest number of each of h_out x w_out regions, cut as in adaptive_avg_pool2d; a NaN wins and stays. */
INLINE void adaptive_max_pool2d(const real *x, real *y, size_t c, size_t h, size_t w, size_t h_out,
                                size_t w_out)
{
    for (size_t r = 0; r < h_out; r++)
        for (size_t s = 0; s < w_out; s++, y += c) {
            const size_t top = r * h / h_out, bottom = ((r + 1) * h + h_out - 1) / h_out;
            const size_t left = s * w / w_out, right = ((s + 1) * w + w_out - 1) / w_out;
            for (size_t k = 0; k < c; k++)
                y[k] = -INFINITY;
            for (size_t i = top; i < bottom; i++)
                for (size_t j = left; j < right; j++) {
                    const real *from = x + (i * w + j) * c;
                    for (size_t k = 0; k < c; k++)
                        y[k] = from[k] > y[k] || from[k] != from[k] ? from[k] : y[k];
                }
        }
}

/*= softmax needs inline */
/* e^(x - m) / sum of e^(x - m), m the largest, along the middle of (outer, size, inner). m keeps e^ from overflowing;
 * a NaN makes the sum NaN. */
INLINE void softmax(const real *x, real *y, size_t outer, size_t size, size_t inner)
{
    for (size_t i = 0; i < outer; i++)
        for (size_t j = 0; j < inner; j++) {
            const real *from = x + i * size * inner + j;
            real *to = y + i * size * inner + j, largest = -INFINITY, sum = 0;
            for (size_t k = 0; k < size; k++)
                if (from[k * inner] > largest)
                    largest = from[k * inner];
            for (size_t k = 0; k < size; k++)
                sum += to[k * inner] = EXP(from[k * inner] - largest);
            for (size_t k = 0; k < size; k++)
                to[k * inner] /= sum;
        }
}

/*= reorder needs inline */
/* From one order in memory to another: x has p_x pixels of c_x channels, y has p_y of c_y; in both, the same numbers follow
 * each other when read a channel at a time. (1 channel: C order.) */
INLINE void reorder(const real *x, real *y, size_t p_x, size_t c_x, size_t p_y, size_t c_y)
{
    for (size_t p = 0; p < p_y; p++)
        for (size_t c = 0; c < c_y; c++) {
            const size_t place = c * p_y + p;
            y[p * c_y + c] = x[c_x == 1 ? place : place % p_x * c_x + place / p_x];
        }
}
