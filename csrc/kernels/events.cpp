#include "events.h"

#include <algorithm>
#include <vector>

#include "bit_lists.h"
#include "transpose.h"

namespace ndsnn::NDSNN_ISA_NAME {
namespace {

constexpr size_t pass_bytes = size_t{320}
                              << 10;  // weights of one pass: they should stay in the second-level cache
constexpr int pass_channels = 256;
constexpr int tile_samples = 1024;  // places · samples that share one load of a pass's weights

// An 8×8 bit matrix, row i in byte i, transposed.
NDSNN_INLINE uint64_t transpose_bits(uint64_t x) {
    uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
    x ^= t ^ (t << 14);
    t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
    return x ^ t ^ (t << 28);
}

// For each sample of a block and place of a row, the channels that fire: entries place·channels + channel, sorted
// by place. list(lane, x) … list(lane, x+n) is contiguous, so that the taps of a kernel row are one run.
class FiringChannels {
public:
    // Rows first … first+rows-1 of channels c0 … c0+channels-1; rows off the map are empty.
    void build(const Geometry& g, const bits_t* source, int c0, int channels, int first, int rows) {
        width_ = g.width;
        const size_t most = static_cast<size_t>(rows) * lanes * (static_cast<size_t>(g.width) * channels + 8);
        uint16_t* list = entries_.get<uint16_t>(most);
        begin_ = begins_.get<const uint16_t*>(static_cast<size_t>(rows) * lanes * (g.width + 1));
        uint64_t* bytes = bytes_.get<uint64_t>(static_cast<size_t>(lanes) * g.width * ((channels + 7) / 8));
        const int eights = (channels + 7) / 8;
        for (int r = 0; r < rows; r++) {
            const int y = first + r;
            const bool on_map = y >= 0 && y < g.height;
            uint8_t* by_lane = reinterpret_cast<uint8_t*>(bytes);
            if (on_map) turn(g, source + (static_cast<size_t>(c0) * g.height + y) * g.width, channels, by_lane);
            for (int l = 0; l < lanes; l++) {
                const uint16_t** begin = begin_ + (static_cast<size_t>(r) * lanes + l) * (g.width + 1);
                const uint8_t* at = by_lane + static_cast<size_t>(l) * g.width * eights;
                for (int x = 0; x < g.width; x++) {
                    begin[x] = list;
                    if (on_map)
                        for (int e = 0; e < eights; e++) list = append(list, *at++, x * channels + e * 8);
                }
                begin[g.width] = list;
            }
        }
    }
    const uint16_t* const* row(int r, int lane) const {
        return begin_ + (static_cast<size_t>(r) * lanes + lane) * (width_ + 1);
    }

private:
    // One row of words [channel][x] (bit = lane) to bytes [lane][x][eight channels] (bit = channel).
    static void turn(const Geometry& g, const bits_t* row, int channels, uint8_t* out) {
        const size_t map = static_cast<size_t>(g.height) * g.width;
        const int eights = (channels + 7) / 8;
        for (int e = 0; e < eights; e++) {
            const int here = std::min(8, channels - e * 8);
            for (int x = 0; x < g.width; x++)
                for (int part = 0; part < lanes / 8; part++) {
                    uint64_t block = 0;
                    for (int c = 0; c < here; c++)
                        block |= static_cast<uint64_t>(row[(e * 8 + c) * map + x] >> (8 * part) & 0xff) << (8 * c);
                    block = transpose_bits(block);
                    for (int l = 0; l < 8; l++)
                        out[(static_cast<size_t>(part * 8 + l) * g.width + x) * eights + e] =
                            static_cast<uint8_t>(block >> (8 * l));
                }
        }
    }

    int width_ = 0;
    const uint16_t** begin_ = nullptr;
    Scratch entries_, begins_, bytes_;
};

// Which weights a pass multiplies: kernel rows ky0 … ky1-1 of channels c0 … c0+channels-1.
struct Pass {
    int ky0, ky1, c0, channels;
};

std::vector<Pass> passes_of(const Geometry& g) {
    if (sizeof(float) * g.k_h * g.k_w * g.c_in * group_channels <= pass_bytes && g.width * g.c_in < 65536)
        return {{0, g.k_h, 0, g.c_in}};
    std::vector<Pass> passes;
    const int most = std::max(8, std::min(pass_channels, 65535 / g.width / 8 * 8));
    for (int c = 0; c < g.c_in; c += most)
        for (int ky = 0; ky < g.k_h; ky++) passes.push_back({ky, ky + 1, c, std::min(most, g.c_in - c)});
    return passes;
}

struct Tile {
    const Connections& k;
    int steps, y0, rows, c0, c1;  // output channels c0 … c1-1
    size_t places() const { return static_cast<size_t>(steps) * rows * k.g.out_w; }
};

// Adds one pass to the sums [step][row][x][lane][group_channels] of a tile.
void add_pass(const Tile& tile, const Pass& pass, const FiringChannels* firing, const float* group, bool first,
              float* sums) {
    const Geometry& g = tile.k.g;
    for (int t = 0; t < tile.steps; t++)
        for (int r = 0; r < tile.rows; r++)
            for (int x = 0; x < g.out_w; x++) {
                const int x0 = std::max(0, x * g.stride - g.pad_w),
                          x1 = std::min(g.width, x * g.stride - g.pad_w + g.k_w);
                for (int l = 0; l < lanes; l++, sums += group_channels) {
                    vf a[vectors_per_group];
#pragma GCC unroll 8
                    for (int v = 0; v < vectors_per_group; v++) a[v] = first ? vf{} : load(sums + v * lanes);
                    if (x0 < x1)
                        for (int ky = pass.ky0; ky < pass.ky1; ky++) {
                            const uint16_t* const* list = firing[t].row(r * g.stride + ky, l);
                            const uint16_t *e = list[x0], *end = list[x1];
                            // Entry place·channels + channel; tap place - x·stride + pad of this kernel row.
                            const int tap0 = ky * g.k_w - (x * g.stride - g.pad_w);
                            const float* w =
                                group + (static_cast<ptrdiff_t>(tap0) * pass.channels) * group_channels;
                            for (; e != end; e++) {
                                const float* at = w + static_cast<size_t>(*e) * group_channels;
#pragma GCC unroll 8
                                for (int v = 0; v < vectors_per_group; v++) a[v] += load(at + v * lanes);
                            }
                        }
#pragma GCC unroll 8
                    for (int v = 0; v < vectors_per_group; v++) store(sums + v * lanes, a[v]);
                }
            }
}

// Sums of the group of output channels from `first_channel` on to rows of vectors of samples.
template <class Out>
void write_group(const Tile& tile, int first_channel, const float* sums, float scale, Out* into,
                 size_t step_stride, size_t channel_stride, float* row_sums) {
    const size_t row_places = static_cast<size_t>(tile.rows) * tile.k.g.out_w;
    for (int c = first_channel; c < std::min(tile.c1, first_channel + group_channels); c += lanes)
        for (int t = 0; t < tile.steps; t++)
            for (size_t p = 0; p < row_places; p++) {
                const float* from = sums + (t * row_places + p) * lanes * group_channels + (c - first_channel);
                vf v[lanes];
#pragma GCC unroll 16
                for (int l = 0; l < lanes; l++) v[l] = load(from + l * group_channels);
                transpose(v);
                const int here = std::min(lanes, tile.c1 - c);
                for (int i = 0; i < here; i++) {
                    const size_t channel = c + i - tile.c0;
                    store(into + t * step_stride + channel * channel_stride + p * lanes,
                          sizeof(Out) == sizeof(float) ? v[i] : v[i] * scale);
                    if (!row_sums) continue;
                    float* s = row_sums + channel * 2 * lanes;
                    store(s, load(s) + v[i]);
                    store(s + lanes, load(s + lanes) + v[i] * v[i]);
                }
            }
}

}  // namespace

const float* dense_weights(const Run& run, const Connections& k, int slot) {
    thread_local Scratch scratches[dense_slots];
    const Geometry& g = k.g;
    const int groups = ceil_div(g.c_out, group_channels);
    const std::vector<Pass> passes = passes_of(g);
    const size_t per_group = static_cast<size_t>(g.k_h) * g.k_w * g.c_in * group_channels;
    float* dense = scratches[slot].get<float>(per_group * groups);
    parallel(run.threads, groups, [&](int group) {
        std::memset(dense + group * per_group, 0, sizeof(float) * per_group);
        const int most = passes.size() == 1 ? g.c_in : passes.front().channels;
        const int last = std::min(g.c_out, (group + 1) * group_channels);
        for_weights(k, k.channel_begin[group * group_channels], k.channel_begin[last],
                    [&](int64_t i, const Place& p) {
                        const int c0 = p.ci / most * most, channels = std::min(most, g.c_in - c0);
                        // Within a range of channels [k_h][k_w][channels][group_channels].
                        const size_t place = static_cast<size_t>(g.k_h) * g.k_w * c0 +
                                             (static_cast<size_t>(p.ky) * g.k_w + p.kx) * channels + (p.ci - c0);
                        dense[group * per_group + place * group_channels + p.co % group_channels] = k.values[i];
                    });
    });
    return dense;
}

namespace {

template <class Out>
void event_tile(const Tile& tile, const std::vector<Pass>& passes, const Current& current, const bits_t* source,
                size_t step_size, Out* into, size_t step_stride, size_t channel_stride, float* row_sums) {
    thread_local Scratch scratch;
    thread_local std::vector<FiringChannels> firing;
    const Geometry& g = tile.k.g;
    const int steps = tile.steps, y0 = tile.y0, rows = tile.rows;
    const size_t per_group = static_cast<size_t>(g.k_h) * g.k_w * g.c_in * group_channels;
    const int first_group = tile.c0 / group_channels, groups = ceil_div(tile.c1, group_channels) - first_group;
    const int in_rows = (rows - 1) * g.stride + g.k_h;
    const size_t size = tile.places() * lanes * group_channels;
    float* sums = scratch.get<float>(size * groups);
    if (firing.size() < static_cast<size_t>(steps)) firing = std::vector<FiringChannels>(steps);
    int listed = -1;
    for (size_t i = 0; i < passes.size(); i++) {
        const Pass& pass = passes[i];
        if (pass.c0 != listed)
            for (int t = 0; t < steps; t++)
                firing[t].build(g, source + t * step_size, pass.c0, pass.channels, y0 * g.stride - g.pad_h,
                                in_rows);
        listed = pass.c0;
        for (int group = 0; group < groups; group++)
            add_pass(tile, pass, firing.data(),
                     current.dense_weights + (first_group + group) * per_group +
                         static_cast<size_t>(g.k_h) * g.k_w * pass.c0 * group_channels,
                     i == 0, sums + group * size);
    }
    for (int group = 0; group < groups; group++)
        write_group(tile, (first_group + group) * group_channels, sums + group * size, current.stored_scale, into,
                    step_stride, channel_stride, row_sums);
}

}  // namespace

template <class Out>
void event_rows(const Current& current, const bits_t* source, size_t step_size, const Part& part, Out* into,
                size_t step_stride, size_t channel_stride, float* sums) {
    const Connections& k = *current.connections;
    const std::vector<Pass> passes = passes_of(k.g);
    const int together = std::max(1, tile_samples / (part.rows * k.g.out_w * lanes));
    for (int t = 0; t < part.steps; t += together)
        event_tile({k, std::min(together, part.steps - t), part.y0, part.rows, part.c0, part.c1}, passes, current,
                   source + t * step_size, step_size, into + t * step_stride, step_stride, channel_stride, sums);
}

template void event_rows(const Current&, const bits_t*, size_t, const Part&, float*, size_t, size_t, float*);
template void event_rows(const Current&, const bits_t*, size_t, const Part&, half_t*, size_t, size_t, float*);

}  // namespace ndsnn::NDSNN_ISA_NAME
