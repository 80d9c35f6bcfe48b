// What is done to whole maps: pooling, copying in and out, counting.
#include <algorithm>

#include "kernels.h"
#include "scratch.h"

namespace ndsnn::NDSNN_ISA_NAME {
namespace {

// fn(index of the plane [height][width] of one channel) for all of them.
template <class F>
void for_planes(const Run& run, const Map& m, F fn) {
    const int maps = m.steps * m.blocks;
    parallel(run.threads, maps, [&](int map) {
        for (int c = 0; c < m.channels; c++) fn(static_cast<size_t>(map) * m.channels + c);
    });
}

struct Window {
    int y0, y1, x0, x1;
};

// Window of output place (y, x): side × side side by side, or torch's adaptive bins where side is 0.
Window window(const Map& in, const Map& out, int side, int y, int x) {
    if (side) return {y * side, std::min((y + 1) * side, in.height), x * side, std::min((x + 1) * side, in.width)};
    const auto first = [](int64_t place, int of, int bins) { return static_cast<int>(place * of / bins); };
    const auto last = [](int64_t place, int of, int bins) {
        return static_cast<int>(((place + 1) * of + bins - 1) / bins);
    };
    return {first(y, in.height, out.height), last(y, in.height, out.height), first(x, in.width, out.width),
            last(x, in.width, out.width)};
}

float* floats(const Map& m) { return static_cast<float*>(m.data); }
bits_t* spikes(const Map& m) { return static_cast<bits_t*>(m.data); }
size_t area(const Map& m) { return static_cast<size_t>(m.height) * m.width; }

}  // namespace

void max_pool(const Run& run, const Map& source, int side, const Map& out) {
    for_planes(run, source, [&](size_t plane) {
        const bits_t* in = spikes(source) + plane * area(source);
        bits_t* to = spikes(out) + plane * area(out);
        for (int y = 0; y < out.height; y++)
            for (int x = 0; x < out.width; x++) {
                const Window w = window(source, out, side, y, x);
                bits_t any = 0;
                for (int i = w.y0; i < w.y1; i++)
                    for (int j = w.x0; j < w.x1; j++) any |= in[i * source.width + j];
                *to++ = any;
            }
    });
}

void max_pool_backward(const Run& run, const Map& source, int side, const Map& grad_out, const Map& grad_source,
                       bool accumulate, float factor) {
    for_planes(run, source, [&](size_t plane) {
        const bits_t* in = spikes(source) + plane * area(source);
        with_floats(grad_out, [&](auto* from) {
            with_floats(grad_source, [&](auto* into) {
                const auto* g = from + plane * area(grad_out) * lanes;
                auto* to = into + plane * area(source) * lanes;
                if (!accumulate) std::memset(to, 0, sizeof(*to) * area(source) * lanes);
                for (int y = 0; y < grad_out.height; y++)
                    for (int x = 0; x < grad_out.width; x++, g += lanes) {
                        const Window w = window(source, grad_out, side, y, x);
                        bits_t any = 0;
                        for (int i = w.y0; i < w.y1; i++)
                            for (int j = w.x0; j < w.x1; j++) any |= in[i * source.width + j];
                        bits_t left = static_cast<bits_t>(~bits_t{0});
                        for (int i = w.y0; i < w.y1; i++)
                            for (int j = w.x0; j < w.x1; j++) {
                                const size_t at = static_cast<size_t>(i) * source.width + j;
                                // Where no lane fired, all are equal and the first place is the maximum.
                                const bits_t hit =
                                    in[at] | (i == w.y0 && j == w.x0 ? static_cast<bits_t>(~any) : bits_t{0});
                                store(to + at * lanes, load(to + at * lanes) + keep(load(g) * factor, hit & left));
                                left &= static_cast<bits_t>(~hit);
                            }
                    }
            });
        });
    });
}

void avg_pool(const Run& run, const Map& source, const Map& out, int side) {
    for_planes(run, source, [&](size_t plane) {
        float* to = floats(out) + plane * area(out) * lanes;
        for (int y = 0; y < out.height; y++)
            for (int x = 0; x < out.width; x++, to += lanes) {
                const Window w = window(source, out, side, y, x);
                vf total{};
                for (int i = w.y0; i < w.y1; i++)
                    for (int j = w.x0; j < w.x1; j++) {
                        const size_t at = plane * area(source) + static_cast<size_t>(i) * source.width + j;
                        total += source.kind == Kind::Spikes ? keep(splat(1), spikes(source)[at])
                                                             : load(floats(source) + at * lanes);
                    }
                store(to, total / static_cast<float>((w.y1 - w.y0) * (w.x1 - w.x0)));
            }
    });
}

void avg_pool_backward(const Run& run, const Map& grad_out, const Map& grad_source, int side, bool accumulate,
                       float factor) {
    for_planes(run, grad_source, [&](size_t plane) {
        with_floats(grad_out, [&](auto* from) {
            with_floats(grad_source, [&](auto* into) {
                const auto* g = from + plane * area(grad_out) * lanes;
                auto* to = into + plane * area(grad_source) * lanes;
                if (!accumulate) std::memset(to, 0, sizeof(*to) * area(grad_source) * lanes);
                for (int y = 0; y < grad_out.height; y++)
                    for (int x = 0; x < grad_out.width; x++, g += lanes) {
                        const Window w = window(grad_source, grad_out, side, y, x);
                        const vf share = load(g) * (factor / static_cast<float>((w.y1 - w.y0) * (w.x1 - w.x0)));
                        for (int i = w.y0; i < w.y1; i++)
                            for (int j = w.x0; j < w.x1; j++) {
                                auto* at = to + (static_cast<size_t>(i) * grad_source.width + j) * lanes;
                                store(at, load(at) + share);
                            }
                    }
            });
        });
    });
}

void add(const Run& run, const Map& source, const Map& into, float factor) {
    for_planes(run, source, [&](size_t plane) {
        with_floats(source, [&](auto* from) {
            with_floats(into, [&](auto* to) {
                for (size_t i = plane * area(source) * lanes; i < (plane + 1) * area(source) * lanes; i += lanes)
                    store(to + i, load(to + i) + load(from + i) * factor);
            });
        });
    });
}

double mean_square(const Run&, const Map& source) {
    constexpr size_t most = 4096;
    const size_t size = source.places(), stride = std::max<size_t>(1, size / most);
    return with_floats(source, [&](auto* data) {
        double total = 0;
        size_t taken = 0;
        for (size_t i = 0; i < size; i += stride, taken++) {
            const vf x = load(data + i * lanes);
            total += sum(x * x);
        }
        return total / static_cast<double>(taken * lanes);
    });
}

void load_map(const Run& run, const float* values, const Map& into) {
    const size_t size = into.plane();
    parallel(run.threads, into.steps * into.blocks, [&](int map) {
        const int step = map / into.blocks, block = map % into.blocks;
        with_floats(into, [&](auto* data) {
            auto* to = data + static_cast<size_t>(map) * size * lanes;
            for (size_t i = 0; i < size; i++, to += lanes) {
                vf x{};
                for (int l = 0; l < lanes; l++) {
                    const int sample = block * lanes + l;
                    if (sample < run.samples)
                        x[l] = values[(static_cast<size_t>(step) * run.samples + sample) * size + i];
                }
                store(to, x);
            }
        });
    });
}

void unload_map(const Run& run, const Map& from, float* values) {
    const size_t size = from.plane();
    parallel(run.threads, from.steps * from.blocks, [&](int map) {
        const int step = map / from.blocks, block = map % from.blocks;
        for (size_t i = 0; i < size; i++) {
            const size_t at = static_cast<size_t>(map) * size + i;
            vf x;
            if (from.kind == Kind::Spikes)
                x = keep(splat(1), spikes(from)[at]);
            else
                x = with_floats(from, [&](auto* data) { return load(data + at * lanes); });
            for (int l = 0; l < lanes; l++) {
                const int sample = block * lanes + l;
                if (sample < run.samples)
                    values[(static_cast<size_t>(step) * run.samples + sample) * size + i] = x[l];
            }
        }
    });
}

void count_places(const Run& run, const Map& source, long long* counts) {
    const int maps = source.steps * source.blocks;
    parallel(run.threads, source.channels, [&](int c) {
        for (size_t i = 0; i < area(source); i++) {
            long long count = 0;
            for (int map = 0; map < maps; map++) {
                const size_t at = (static_cast<size_t>(map) * source.channels + c) * area(source) + i;
                if (source.kind == Kind::Spikes) {
                    count += __builtin_popcount(spikes(source)[at]);
                    continue;
                }
                const bits_t valid = valid_lanes(run, map % source.blocks);
                const vf x = with_floats(source, [&](auto* data) { return load(data + at * lanes); });
                for (int l = 0; l < lanes; l++) count += (valid >> l & 1) && x[l] != 0;
            }
            counts[c * area(source) + i] = count;
        }
    });
}

long long spike_count(const Run& run, const Map& source) {
    const int maps = source.steps * source.blocks;
    std::vector<long long> counts(maps);
    parallel(run.threads, maps, [&](int map) {
        const char* at = reinterpret_cast<const char*>(spikes(source) + static_cast<size_t>(map) * source.plane());
        size_t bytes = source.plane() * sizeof(bits_t);
        for (; bytes >= 8; bytes -= 8, at += 8) {
            uint64_t word;
            std::memcpy(&word, at, 8);
            counts[map] += __builtin_popcountll(word);
        }
        for (; bytes; bytes--, at++) counts[map] += __builtin_popcount(static_cast<unsigned char>(*at));
    });
    long long total = 0;
    for (long long count : counts) total += count;
    return total;
}

}  // namespace ndsnn::NDSNN_ISA_NAME
