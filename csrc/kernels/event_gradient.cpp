// The weight gradient by spikes: dL/dw[tap][c_in][c_out] = Σ over spikes of c_in of dL/dy[c_out] at the place the
// tap leads to, with output channels as lanes. All places get it, alive or not.
#include <algorithm>

#include "bit_lists.h"
#include "events.h"
#include "transpose.h"

namespace ndsnn::NDSNN_ISA_NAME {
namespace {

constexpr size_t strip_bytes = size_t{256} << 10;  // dL/dy of a tile: it should stay in the second-level cache
constexpr size_t slot_bytes = size_t{6} << 20;     // sums of all slots of a layer
constexpr int most_slots = 16;
constexpr int most_blocks = 16;  // of a tile
constexpr int ahead = 3;         // entries of a list whose vectors are asked for early

// Shape of the tiles: rows of the source of some blocks (steps × groups of samples), and the dL/dy they lead to as
// [block][row][column][lane][group_channels] with zeros around the map.
struct Tiling {
    int rows, blocks;                       // of the source
    int grad_rows, pitch, left, first_row;  // of dL/dy: row 0 of the strip is row y0/stride + first_row of the map
    // Tiles of one row go down a block and keep the rows they share: row r of the map in row r mod grad_rows.
    bool ring(const Geometry& g) const { return blocks == 1 && rows == g.stride; }
    int row_in_strip(const Geometry& g, int top, int r) const {
        return ring(g) ? ((top + r) % grad_rows + grad_rows) % grad_rows : r;
    }
    size_t entries() const { return static_cast<size_t>(blocks) * grad_rows * pitch * lanes; }

    explicit Tiling(const Geometry& g) {
        const int s = g.stride;
        const int columns = ceil_div(g.width, s), right = (s - 1 + g.pad_w) / s;
        first_row = floor_div(g.pad_h - g.k_h + 1, s);
        left = std::max(0, -floor_div(g.pad_w - g.k_w + 1, s));
        pitch = std::max(g.out_w, columns + right) + left;
        const auto rows_needed = [&](int r) { return ceil_div(r, s) + (s - 1 + g.pad_h) / s - first_row; };
        const auto fits = [&](int r, int b) {
            const size_t n = static_cast<size_t>(b) * rows_needed(r) * pitch * lanes;
            return n < 65536 && n * group_channels * sizeof(float) <= strip_bytes;
        };
        rows = s;
        blocks = 1;
        while (rows < g.height && fits(rows + s, 1)) rows += s;
        while (rows >= g.height && blocks < most_blocks && fits(rows, blocks + 1)) blocks++;
        grad_rows = rows_needed(rows);
    }
};

struct Problem {
    const Run& run;
    const Current& current;
    const Geometry& g;
    const Map& grad_x;
    const GradientAffine& affine;
    const Tiling tiling;
    bool needs_y;
};

// One row of dL/dy for a group of channels: [x][lane][group_channels], channels past the last are 0.
template <class T>
void turn_row(const Problem& p, const T* gx, const float* y, size_t y_stride, int c0, bits_t valid, float* out) {
    const Geometry& g = p.g;
    const size_t map = static_cast<size_t>(g.out_h) * g.out_w * lanes;
    for (int v = 0; v < vectors_per_group; v++) {
        const int first = c0 + v * lanes, here = std::max(0, std::min(lanes, g.c_out - first));
        vf a[lanes], b[lanes], d[lanes];
        for (int i = 0; i < here; i++) {
            a[i] = splat(static_cast<float>(p.affine.a[first + i]));
            b[i] = splat(static_cast<float>(p.affine.b[first + i]));
            d[i] = splat(static_cast<float>(p.affine.c[first + i]));
        }
        for (int x = 0; x < g.out_w; x++) {
            vf r[lanes];
            for (int i = 0; i < here; i++) {
                r[i] = load(gx + (first + i) * map + x * lanes) * a[i] + d[i];
                if (y) r[i] += load(y + (v * lanes + i) * y_stride + x * lanes) * b[i];
                r[i] = keep(r[i], valid);
            }
            for (int i = here; i < lanes; i++) r[i] = vf{};
            transpose(r);
            for (int l = 0; l < lanes; l++)
                store(out + (static_cast<size_t>(x) * lanes + l) * group_channels + v * lanes, r[l]);
        }
    }
}

// dL/dy of the tile with source rows from y0 on of block `b` (a step and a group of samples) into its part of the
// strip, but for the rows before `first`.
void fill_block(const Problem& p, int b, int y0, int c0, int first, float* strip) {
    thread_local Scratch scratch;
    const Geometry& g = p.g;
    const Tiling& tiling = p.tiling;
    const int step = b / p.grad_x.blocks, block = b % p.grad_x.blocks;
    const bits_t valid = valid_lanes(p.run, block);
    const size_t place = static_cast<size_t>(lanes) * group_channels, row_size = tiling.pitch * place;
    const int top = y0 / g.stride + tiling.first_row, most = p.current.connections->forward_rows;
    Rows y{nullptr, 0, 0};
    for (int r = first; r < tiling.grad_rows; r++) {
        float* row = strip + tiling.row_in_strip(g, top, r) * row_size;
        const int oy = top + r;
        if (oy < 0 || oy >= g.out_h) {
            std::memset(row, 0, sizeof(float) * row_size);
            continue;
        }
        const int within = (oy - std::max(0, top + first)) % most;
        if (p.needs_y && within == 0) {
            const Part part{block,
                            step,
                            1,
                            oy,
                            std::min({most, top + tiling.grad_rows - oy, g.out_h - oy}),
                            c0,
                            std::min(g.c_out, c0 + group_channels)};
            y = get_rows(p.current, part, scratch.get<float>(rows_size(p.current, part)));
        }
        std::memset(row, 0, sizeof(float) * tiling.left * place);
        float* end = row + (tiling.left + g.out_w) * place;
        std::memset(end, 0, sizeof(float) * (row + row_size - end));
        const float* y_row = p.needs_y ? y.base + static_cast<size_t>(within) * g.out_w * lanes : nullptr;
        with_floats(p.grad_x, [&](auto* data) {
            const size_t at = p.grad_x.place(step, block, 0, oy) * lanes;
            turn_row(p, data + at, y_row, y.channel_stride, c0, valid, row + tiling.left * place);
        });
    }
}

// Where channel ci of the source fires in a tile: entries of the strip, for places of one column and row class.
uint16_t* list_spikes(const Problem& p, int b0, int blocks, int y0, int rows, int ci, int class_y, int class_x,
                      uint16_t* list) {
    const Geometry& g = p.g;
    const Tiling& tiling = p.tiling;
    for (int b = 0; b < blocks; b++) {
        const bits_t* map = static_cast<const bits_t*>(p.current.source.data) +
                            (static_cast<size_t>(b0 + b) * g.c_in + ci) * g.height * g.width;
        for (int y = class_y; y < rows; y += g.stride) {
            const bits_t* row = map + static_cast<size_t>(y0 + y) * g.width;
            int base = (b * tiling.grad_rows + y / g.stride) * tiling.pitch * lanes;
            for (int x = class_x; x < g.width; x += g.stride, base += lanes)
                for (int part = 0; part < lanes / 8; part++)
                    list = append(list, static_cast<uint8_t>(row[x] >> (8 * part)), base + 8 * part);
        }
    }
    return list;
}

// Adds Σ over the list of the strip's vectors to one weight's group of output channels.
NDSNN_INLINE void add_listed(const uint16_t* e, const uint16_t* end, const float* strip, float* dw) {
    vf a[vectors_per_group];
#pragma GCC unroll 8
    for (int v = 0; v < vectors_per_group; v++) a[v] = load(dw + v * lanes);
    for (; e != end; e++) {
        const float* at = held(strip + static_cast<size_t>(*e) * group_channels);
        const float* next = strip + static_cast<size_t>(e[ahead]) * group_channels;
        for (int line = 0; line < vectors_per_group * lanes; line += 16) __builtin_prefetch(next + line);
#pragma GCC unroll 8
        for (int v = 0; v < vectors_per_group; v++) a[v] += load(at + v * lanes);
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors_per_group; v++) store(dw + v * lanes, a[v]);
}

void tile_gradient(const Problem& p, int b0, int blocks, int y0, int rows, const float* strip, uint16_t* list,
                   float* dw) {
    const Geometry& g = p.g;
    const Tiling& tiling = p.tiling;
    const int s = g.stride, top = y0 / s + tiling.first_row;
    for (int ci = 0; ci < g.c_in; ci++)
        for (int class_y = 0; class_y < s; class_y++)
            for (int class_x = 0; class_x < s; class_x++) {
                const uint16_t* end = list_spikes(p, b0, blocks, y0, rows, ci, class_y, class_x, list);
                if (end == list) continue;
                for (int ky = (class_y + g.pad_h) % s; ky < g.k_h; ky += s)
                    for (int kx = (class_x + g.pad_w) % s; kx < g.k_w; kx += s) {
                        const int down = (class_y + g.pad_h - ky) / s - tiling.first_row;
                        const int right = (class_x + g.pad_w - kx) / s + tiling.left;
                        const size_t row = tiling.row_in_strip(g, top, down);
                        const size_t shift = (row * tiling.pitch + right) * lanes;
                        const size_t weight = (static_cast<size_t>(ky) * g.k_w + kx) * g.c_in + ci;
                        add_listed(list, end, strip + shift * group_channels, dw + weight * group_channels);
                    }
            }
}

}  // namespace

bool events_fit(const Geometry& g) { return Tiling(g).entries() < 65536 && 8 * g.width < 65536; }

void event_weight_gradient(const Run& run, const Current& current, const Map& grad_x, const GradientAffine& affine,
                           int first_group, int groups, float* dense) {
    const Geometry& g = current.connections->g;
    const Problem p{run, current, g, grad_x, affine, Tiling(g), affine.needs_y(g.c_out)};
    const Tiling& tiling = p.tiling;
    const int blocks = grad_x.steps * grad_x.blocks;
    const size_t per_group = static_cast<size_t>(g.k_h) * g.k_w * g.c_in * group_channels,
                 size = per_group * groups;
    const int slots = static_cast<int>(std::min<size_t>(
        {std::max<size_t>(1, slot_bytes / (size * sizeof(float))), static_cast<size_t>(blocks), most_slots}));
    Temporary partial_sums(slots > 1 ? size * slots : 0);
    float* partial = partial_sums.get();
    parallel(run.threads, slots * groups, [&](int task) {
        thread_local Scratch strip_scratch, list_scratch;
        const int slot = task / groups, group = task % groups;
        float* dw = (slots > 1 ? partial + size * slot : dense) + per_group * group;
        std::memset(dw, 0, sizeof(float) * per_group);
        float* strip = strip_scratch.get<float>(tiling.entries() * group_channels);
        uint16_t* list =
            list_scratch.get<uint16_t>(static_cast<size_t>(tiling.blocks) * tiling.rows * g.width * lanes + 16);
        const int first = static_cast<int>(static_cast<int64_t>(blocks) * slot / slots);
        const int last = static_cast<int>(static_cast<int64_t>(blocks) * (slot + 1) / slots);
        for (int b = first; b < last; b += tiling.blocks) {
            const int here = std::min(tiling.blocks, last - b);
            for (int y0 = 0; y0 < g.height; y0 += tiling.rows) {
                const int kept = tiling.ring(g) && y0 > 0 ? tiling.grad_rows - 1 : 0;
                for (int i = 0; i < here; i++)
                    fill_block(
                        p, b + i, y0, (first_group + group) * group_channels, kept,
                        strip + static_cast<size_t>(i) * tiling.grad_rows * tiling.pitch * lanes * group_channels);
                tile_gradient(p, b, here, y0, std::min(tiling.rows, g.height - y0), strip, list, dw);
            }
        }
    });
    if (slots > 1)
        parallel(run.threads, groups, [&](int group) {
            for (size_t i = group * per_group; i < (group + 1) * per_group; i += lanes) {
                vf total = load(partial + i);
                for (int slot = 1; slot < slots; slot++) total += load(partial + slot * size + i);
                store(dense + i, total);
            }
        });
}

}  // namespace ndsnn::NDSNN_ISA_NAME
