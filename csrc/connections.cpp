#include "connections.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace ndsnn {
namespace {

constexpr int first_level_bytes = 16 << 10;
constexpr size_t most_offset = size_t{1} << 30;

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

void check(const Geometry& g) {
    require(g.c_in > 0 && g.c_out > 0 && g.height > 0 && g.width > 0, "a layer has no channels or an empty map");
    require(g.k_h % 2 == 1 && g.k_w % 2 == 1 && g.k_h > 0 && g.k_w > 0, "kernels must be odd");
    require(g.stride == 1 || g.stride == 2, "stride must be 1 or 2, not " + std::to_string(g.stride));
    require(g.pad_h >= 0 && g.pad_w >= 0, "padding must not be negative");
    require(g.height + 2 * g.pad_h >= g.k_h && g.width + 2 * g.pad_w >= g.k_w,
            "the kernel is larger than the padded map");
    require(g.out_h == (g.height + 2 * g.pad_h - g.k_h) / g.stride + 1 &&
                g.out_w == (g.width + 2 * g.pad_w - g.k_w) / g.stride + 1,
            "the output size does not follow from the input size");
}

// Column shift of dL/dy for tap kx and column class c: ∂y(xo)/∂source(xi) is alive where xi + pad = stride·xo +
// kx.
int column_shift(const Geometry& g, int c, int kx) { return (c + g.pad_w - kx) / g.stride; }
int column_class(const Geometry& g, int kx) { return ((kx - g.pad_w) % g.stride + g.stride) % g.stride; }

void plan_forward(Connections& k) {
    const Geometry& g = k.g;
    const int right = std::max(0, (g.out_w - 1) * g.stride + g.k_w - 1 - g.pad_w - (g.width - 1));
    k.left = g.pad_w;
    k.pitch = g.width + std::max(g.pad_w, right);
    k.forward_rows = std::min(g.out_h, std::max(4, 64 / g.out_w));
    k.strip_rows = (k.forward_rows - 1) * g.stride + g.k_h;
}

void plan_backward(Connections& k) {
    const Geometry& g = k.g;
    int left = 0, right = 0;
    for (int kx = 0; kx < g.k_w; kx++) {
        const int c = column_class(g, kx);
        if (c >= g.width) continue;
        const int shift = column_shift(g, c, kx), columns = (g.width - c + g.stride - 1) / g.stride;
        left = std::max(left, -shift);
        right = std::max(right, columns - 1 + shift - (g.out_w - 1));
    }
    k.grad_left = left;
    k.grad_pitch = g.out_w + std::max(left, right);
    k.taps = (g.k_h + g.stride - 1) / g.stride;
    k.backward_rows = std::min(g.height, 2);
    k.grad_rows = g.stride == 1 ? k.backward_rows + g.k_h - 1 : (k.backward_rows + g.k_h - 2) / g.stride + 2;
}

// Output channels go in groups whose rows of dL/dy stay in the first-level cache for a tile, where a group has
// weights enough to be worth reading and writing dL/dsource once more.
void group_backward(Connections& k) {
    const Geometry& g = k.g;
    const int places = g.width >= 8 ? 8 : g.width >= 4 ? 4 : g.width >= 2 ? 2 : 1;
    const double per_channel = k.density() * g.k_h * g.k_w / (g.stride * g.stride);
    const int fit = std::max<int>(1, first_level_bytes / (k.taps * (places + g.k_w - 1) * 32));
    const double needed = std::ceil(240 / places / std::max(per_channel, 1e-9));
    k.backward_group = needed > 2.0 * fit ? g.c_out : std::min(g.c_out, std::max(fit, static_cast<int>(needed)));
    k.backward_groups = (g.c_out + k.backward_group - 1) / k.backward_group;
}

float value_of(const Connections& k, int32_t i) { return k.values ? k.values[i] : 0; }

// Counting sort by key: begin[key] and the place of each weight; weights of one key stay in the order of their
// positions.
template <class Key>
List<int32_t> sort_by(size_t nnz, size_t keys, List<int32_t>& begin, Key key) {
    begin.assign(keys + 1, 0);
    for (size_t i = 0; i < nnz; i++) begin[key(i) + 1]++;
    for (size_t i = 0; i < keys; i++) begin[i + 1] += begin[i];
    List<int32_t> next(begin.begin(), begin.end() - 1), order(nnz);
    for (size_t i = 0; i < nnz; i++) order[next[key(i)]++] = static_cast<int32_t>(i);
    return order;
}

}  // namespace

Connections build_connections(const Geometry& g, const int64_t* positions, size_t nnz) {
    check(g);
    Connections k;
    k.g = g;
    const size_t size = static_cast<size_t>(g.c_out) * g.c_in * g.k_h * g.k_w;
    require(positions ? nnz <= size : nnz == size, "there are more alive weights than places");
    require(size < static_cast<size_t>(std::numeric_limits<int32_t>::max()),
            "a layer of 2^31 places is not supported");
    for (size_t i = 0; positions && i < nnz; i++)
        require(positions[i] >= 0 && static_cast<size_t>(positions[i]) < size &&
                    (i == 0 || positions[i] > positions[i - 1]),
                "positions must be ascending places of the weight; entry " + std::to_string(i) + " is " +
                    std::to_string(positions[i]));
    k.nnz = nnz;
    plan_forward(k);
    plan_backward(k);
    require(static_cast<size_t>(g.c_in) * k.strip_rows * k.pitch < most_offset &&
                static_cast<size_t>(g.c_out) * k.grad_rows * k.grad_pitch < most_offset,
            "the layer's map is too large");
    if (nnz < size) k.positions.assign(positions, positions + nnz);
    k.channel_begin.assign(g.c_out + 1, 0);
    const int64_t per_channel = static_cast<int64_t>(g.c_in) * g.k_h * g.k_w;
    if (nnz == size)
        std::fill(k.channel_begin.begin() + 1, k.channel_begin.end(), per_channel);
    else
        for (size_t i = 0; i < nnz; i++) k.channel_begin[positions[i] / per_channel + 1]++;
    for (int c = 0; c < g.c_out; c++) k.channel_begin[c + 1] += k.channel_begin[c];
    return k;
}

void need_forward(Connections& k) {
    if (!k.forward_begin.empty()) return;
    const Geometry& g = k.g;
    k.forward_value = sort_by(k.nnz, static_cast<size_t>(g.c_out) * g.k_h, k.forward_begin, [&](size_t i) {
        const Place p = place_of(g, k.position(i));
        return static_cast<size_t>(p.co) * g.k_h + p.ky;
    });
    k.forward.resize(k.nnz);
    for (size_t i = 0; i < k.nnz; i++) {
        const Place p = place_of(g, k.position(k.forward_value[i]));
        k.forward[i] = {(p.ci * k.strip_rows + p.ky) * k.pitch + p.kx - g.pad_w + k.left,
                        value_of(k, k.forward_value[i])};
    }
}

void need_backward(Connections& k) {
    if (!k.backward_begin.empty()) return;
    const Geometry& g = k.g;
    group_backward(k);
    const size_t keys = static_cast<size_t>(k.backward_groups) * g.c_in * g.stride * g.stride * k.taps;
    k.backward_value = sort_by(k.nnz, keys, k.backward_begin, [&](size_t i) {
        const Place p = place_of(g, k.position(i));
        const size_t list = static_cast<size_t>(p.co / k.backward_group) * g.c_in + p.ci;
        const size_t classes = (list * g.stride + column_class(g, p.kx)) * g.stride + p.ky % g.stride;
        return classes * k.taps + p.ky / g.stride;
    });
    k.backward.resize(k.nnz + entries_ahead + 3);
    for (size_t i = 0; i < k.nnz; i++) {
        const Place p = place_of(g, k.position(k.backward_value[i]));
        const int shift = column_shift(g, column_class(g, p.kx), p.kx);
        k.backward[i] = {(p.co * k.grad_rows - p.ky / g.stride) * k.grad_pitch + shift,
                         value_of(k, k.backward_value[i])};
    }
}

float stored_scale(Connections& k) {
    constexpr float most = 32768;  // half of what fp16 can hold
    if (k.largest_sum < 0) {
        k.largest_sum = 0;
        for (int c = 0; c < k.g.c_out; c++) {
            float total = 0;
            for (int64_t i = k.channel_begin[c]; i < k.channel_begin[c + 1]; i++) total += std::fabs(k.values[i]);
            k.largest_sum = std::max(k.largest_sum, total);
        }
    }
    // The largest power of two for which no y leaves the range.
    return k.largest_sum > 0 ? std::exp2(std::floor(std::log2(most / k.largest_sum))) : 1;
}

void set_values(Connections& k, const float* values, int threads) {
    const int64_t n = static_cast<int64_t>(k.nnz);
    k.largest_sum = -1;
    k.values = values;
    const bool forward = !k.forward_begin.empty(), backward = !k.backward_begin.empty();
#pragma omp parallel for schedule(static) num_threads(threads) if (n > 100000)
    for (int64_t i = 0; i < n; i++) {
        if (forward) k.forward[i].weight = values[k.forward_value[i]];
        if (backward) k.backward[i].weight = values[k.backward_value[i]];
    }
}

}  // namespace ndsnn
