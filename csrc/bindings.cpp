// Python's view of the kernels. Everything is checked here: shapes against each other, indices when lists are
// built.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <omp.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#include "connections.h"
#include "dispatch.h"

namespace nb = nanobind;
using namespace ndsnn;

namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using VectorOut = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Positions = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using CountsOut = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

std::string shape_text(const Map& m) {
    std::string s = m.kind == Kind::Spikes ? "spikes [" : "floats [";
    for (int n : {m.steps, m.blocks, m.channels, m.height, m.width}) s += std::to_string(n) + ", ";
    return s.substr(0, s.size() - 2) + "]";
}

constexpr size_t most_bytes = size_t{1} << 48;
constexpr int most_side = 1 << 15;  // of what a layer reads, so that what follows from it is an int
constexpr double most_places = 1u << 31;

// Kernels count the places of a sample, and the maps of all steps and blocks, in ints.
void check_shape(int steps, int blocks, int channels, int height, int width) {
    require(steps >= 1 && channels >= 1 && height >= 1 && width >= 1, "a map has an empty axis");
    require(1.0 * channels * height * width < most_places && 1.0 * steps * blocks < most_places,
            "a map of 2^31 places is not supported");
}

// Memory that maps are cut from.
class Arena {
public:
    explicit Arena(size_t bytes) : size_(bytes) {
        require(bytes < most_bytes, "an arena of " + std::to_string(bytes) + " bytes is larger than any memory");
        constexpr size_t huge = size_t{2} << 20;
        const size_t alignment = bytes >= 2 * huge ? huge : 64;
        const size_t total = (bytes + slack + alignment - 1) / alignment * alignment;
        data_ = std::aligned_alloc(alignment, total);
        if (!data_) throw std::bad_alloc();
#ifdef __linux__
        if (alignment == huge) madvise(data_, total, MADV_HUGEPAGE);
#endif
        std::memset(static_cast<char*>(data_) + bytes, 0, total - bytes);
    }
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() { std::free(data_); }

    size_t size() const { return size_; }
    char* at(size_t offset) { return static_cast<char*>(data_) + offset; }

private:
    static constexpr size_t slack = 256;  // kernels read a few words past a map
    void* data_;
    size_t size_;
};

struct PyMap {
    Map map;
    std::shared_ptr<double> scale = std::make_shared<double>(1);  // shared by all maps of the same bytes
    std::shared_ptr<Arena> arena;
    int samples = 0;  // of the engine that cut it, like the kernels
    const Kernels* kernels = nullptr;
};

struct PyCurrent {
    Current current;
    std::shared_ptr<Connections> connections;
    PyMap source;
    std::optional<PyMap> stored;
};

struct PyTerm {
    Term term;
    std::shared_ptr<PyCurrent> current;
    std::optional<PyMap> map;
    std::vector<double> scale, shift;
};

size_t element_bytes(Kind kind, int lanes) {
    return kind == Kind::Spikes ? lanes / 8 : kind == Kind::Float16 ? 2 * lanes : 4 * lanes;
}

// All kernels for T·N samples on one instruction set.
class Engine {
public:
    Engine(int samples, const std::string& isa) : kernels_(kernels_of(isa)), samples_(samples) {
        require(samples >= 1, "there must be at least one sample");
        blocks_ = (samples - 1) / kernels_.lanes + 1;
    }

    std::string isa() const { return kernels_.name; }
    int lanes() const { return kernels_.lanes; }
    int dense_gradient_channels() const { return kernels_.dense_gradient_channels(); }

    size_t nbytes(int steps, int channels, int height, int width, Kind kind) const {
        check_shape(steps, blocks_, channels, height, width);
        const double estimate =
            1.0 * steps * blocks_ * channels * height * width * element_bytes(kind, kernels_.lanes);
        require(estimate < static_cast<double>(most_bytes), "a map is larger than any memory");
        const size_t places = static_cast<size_t>(steps) * blocks_ * channels * height * width;
        return (places * element_bytes(kind, kernels_.lanes) + 127) / 64 * 64;
    }

    PyMap map(std::shared_ptr<Arena> arena, size_t offset, int steps, int channels, int height, int width,
              Kind kind) const {
        const size_t bytes = nbytes(steps, channels, height, width, kind);
        require(offset % 64 == 0 && offset <= arena->size() && bytes <= arena->size() - offset,
                "a map of " + std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                    " does not fit into an arena of " + std::to_string(arena->size()));
        return {{kind, arena->at(offset), steps, blocks_, channels, height, width},
                std::make_shared<double>(1),
                std::move(arena),
                samples_,
                &kernels_};
    }

    std::shared_ptr<PyCurrent> current(std::shared_ptr<Connections> k, const PyMap& source,
                                       const std::optional<PyMap>& stored) const {
        const Geometry& g = k->g;
        const Map& s = source.map;
        own(source);
        require(k->values || k->nnz == 0, "the layer's weights have no values yet");
        require(s.channels == g.c_in && s.height == g.height && s.width == g.width && s.kind != Kind::Float16,
                "the layer reads [" + std::to_string(g.c_in) + ", " + std::to_string(g.height) + ", " +
                    std::to_string(g.width) + "], not " + shape_text(s));
        auto made = std::make_shared<PyCurrent>();
        made->connections = k;
        made->source = source;
        made->current = {k.get(), s, {}};
        if (stored) {
            own(*stored);
            require(
                stored->map.kind != Kind::Spikes &&
                    stored->map.same_shape({Kind::Float32, nullptr, s.steps, blocks_, g.c_out, g.out_h, g.out_w}),
                "the layer's current does not fit into " + shape_text(stored->map));
            require(stored->map.kind == Kind::Float32 || s.kind == Kind::Spikes,
                    "only a current of spikes is kept in fp16");
            if (stored->map.kind == Kind::Float16) made->current.stored_scale = stored_scale(*k);
            made->stored = stored;
            made->current.stored = stored->map;
        }
        return made;
    }

    PyTerm current_term(std::shared_ptr<PyCurrent> current, Vector scale, Vector shift) const {
        own(*current);
        const size_t channels = current->connections->g.c_out;
        require(scale.size() == channels && shift.size() == channels,
                "scale and shift need one entry per output channel");
        PyTerm t;
        t.current = std::move(current);
        t.scale.assign(scale.data(), scale.data() + channels);
        t.shift.assign(shift.data(), shift.data() + channels);
        return t;
    }

    PyTerm map_term(const PyMap& map) const {
        own(map);
        require(map.map.kind != Kind::Float16, "a summand must be spikes or fp32");
        PyTerm t;
        t.map = map;
        return t;
    }

    void statistics(const PyCurrent& c, VectorOut sum, VectorOut squares) const {
        own(c);
        const size_t channels = c.connections->g.c_out;
        require(sum.size() == channels && squares.size() == channels,
                "the sums need one entry per output channel");
        nb::gil_scoped_release release;
        kernels_.statistics(run(), c.current, sum.data(), squares.data());
    }

    long long neuron_forward(const std::vector<PyTerm>& terms, const Neuron& neuron, int pool,
                             const PyMap& out) const {
        require(out.map.kind == Kind::Spikes, "neurons write spikes");
        const std::vector<Term> plain = check_terms(terms, pool, out);
        nb::gil_scoped_release release;
        return kernels_.neuron_forward(run(), plain, neuron, pool, out.map);
    }

    void neuron_backward(const std::vector<PyTerm>& terms, const Neuron& neuron, int pool, const PyMap& grad_out,
                         const PyMap& grad_x, VectorOut sum_gx, Matrix sum_gx_y) const {
        require(grad_out.map.kind != Kind::Spikes && grad_x.map.kind != Kind::Spikes, "gradients are floats");
        const std::vector<Term> plain = check_terms(terms, pool, grad_out);
        const Shape in = input_shape(terms.front());
        const Map want{grad_x.map.kind, nullptr, in.steps, blocks_, in.channels, in.height, in.width};
        own(grad_x);
        require(grad_x.map.same_shape({Kind::Float32, nullptr, terms.size() == 1 ? in.steps : grad_out.map.steps,
                                       blocks_, in.channels, in.height, in.width}),
                "the gradient of " + shape_text(want) + " does not fit into " + shape_text(grad_x.map));
        require(sum_gx.size() == static_cast<size_t>(in.channels) && sum_gx_y.shape(0) == terms.size() &&
                    sum_gx_y.shape(1) == static_cast<size_t>(in.channels),
                "the sums need one entry per term and channel");
        nb::gil_scoped_release release;
        kernels_.neuron_backward(run(), plain, neuron, pool, grad_out.map, grad_x.map, sum_gx.data(),
                                 sum_gx_y.data());
    }

    void synapse_backward(const PyCurrent& c, const PyMap& grad_x, Vector a, Vector b, Vector d,
                          const std::optional<PyMap>& grad_source, bool accumulate, FloatsOut grad_values) const {
        Connections& k = *c.connections;
        check_gradient(c, grad_x, a, b, d);
        require(grad_values.size() == k.nnz,
                "the gradient needs one entry per alive weight, " + std::to_string(k.nnz));
        if (grad_source) {
            own(*grad_source);
            require(grad_source->map.kind != Kind::Spikes && grad_source->map.same_shape(c.source.map),
                    "the gradient of the layer's input does not fit " + shape_text(grad_source->map));
        }
        const GradientAffine affine{a.data(), b.data(), d.data()};
        float* out = grad_values.data();
        nb::gil_scoped_release release;
        kernels_.synapse_backward(run(), c.current, k, grad_x.map, affine,
                                  grad_source ? &grad_source->map : nullptr, accumulate, out);
    }

    // The gradient of every place of output channels first … first+channels-1, alive or not.
    void dense_gradient(const PyCurrent& c, const PyMap& grad_x, Vector a, Vector b, Vector d, int first,
                        int channels, FloatsOut gradient) const {
        const Geometry& g = c.connections->g;
        const size_t size = static_cast<size_t>(g.c_in) * g.k_h * g.k_w;
        check_gradient(c, grad_x, a, b, d);
        require(first >= 0 && channels >= 1 && channels <= g.c_out && first <= g.c_out - channels &&
                    gradient.size() == size * channels,
                "the layer has no such output channels, or the gradient is of another size");
        require(first % kernels_.dense_gradient_channels() == 0,
                "output channels are taken from a multiple of " +
                    std::to_string(kernels_.dense_gradient_channels()) + " on");
        const GradientAffine affine{a.data(), b.data(), d.data()};
        float* out = gradient.data();
        nb::gil_scoped_release release;
        kernels_.dense_gradient(run(), c.current, grad_x.map, affine, first, channels, out);
    }

    void max_pool(const PyMap& source, int side, const PyMap& out) const {
        check_pool(source, side, out);
        require(source.map.kind == Kind::Spikes && out.map.kind == Kind::Spikes, "max-pool takes spikes");
        nb::gil_scoped_release release;
        kernels_.max_pool(run(), source.map, side, out.map);
    }

    void max_pool_backward(const PyMap& source, int side, const PyMap& grad_out, const PyMap& grad_source,
                           bool accumulate, float factor) const {
        check_pool(source, side, grad_out);
        require(source.map.kind == Kind::Spikes && grad_out.map.kind != Kind::Spikes &&
                    grad_source.map.kind != Kind::Spikes && grad_source.map.same_shape(source.map),
                "max-pool's gradients do not fit its input");
        nb::gil_scoped_release release;
        kernels_.max_pool_backward(run(), source.map, side, grad_out.map, grad_source.map, accumulate, factor);
    }

    void avg_pool(const PyMap& source, const PyMap& out, int side) const {
        check_average(source, out, side);
        require(source.map.kind != Kind::Float16 && out.map.kind == Kind::Float32, "average pool writes fp32");
        nb::gil_scoped_release release;
        kernels_.avg_pool(run(), source.map, out.map, side);
    }

    void avg_pool_backward(const PyMap& grad_out, const PyMap& grad_source, int side, bool accumulate,
                           float factor) const {
        check_average(grad_source, grad_out, side);
        require(grad_out.map.kind != Kind::Spikes && grad_source.map.kind != Kind::Spikes, "gradients are floats");
        nb::gil_scoped_release release;
        kernels_.avg_pool_backward(run(), grad_out.map, grad_source.map, side, accumulate, factor);
    }

    double mean_square(const PyMap& source) const {
        own(source);
        require(source.map.kind != Kind::Spikes, "the mean square is one of floats");
        nb::gil_scoped_release release;
        return kernels_.mean_square(run(), source.map);
    }

    void add(const PyMap& source, const PyMap& into, float factor) const {
        own(source);
        own(into);
        require(
            source.map.same_shape(into.map) && source.map.kind != Kind::Spikes && into.map.kind != Kind::Spikes,
            shape_text(source.map) + " cannot be added to " + shape_text(into.map));
        nb::gil_scoped_release release;
        kernels_.add(run(), source.map, into.map, factor);
    }

    void load(Floats values, const PyMap& into) const {
        own(into);
        require(into.map.kind != Kind::Spikes, "spikes are not loaded");
        require(has_shape(values, into.map), "the " + std::to_string(values.size()) +
                                                 " values are not of the shape of " + shape_text(into.map));
        nb::gil_scoped_release release;
        kernels_.load(run(), values.data(), into.map);
    }

    void unload(const PyMap& from, FloatsOut values) const {
        own(from);
        require(has_shape(values, from.map), "the room for " + std::to_string(values.size()) +
                                                 " values is not of the shape of " + shape_text(from.map));
        nb::gil_scoped_release release;
        kernels_.unload(run(), from.map, values.data());
    }

    void counts(const PyMap& source, CountsOut out) const {
        own(source);
        require(out.size() == source.map.plane(), "the counts need one entry per place");
        static_assert(sizeof(long long) == sizeof(int64_t));
        nb::gil_scoped_release release;
        kernels_.counts(run(), source.map, reinterpret_cast<long long*>(out.data()));
    }

    PyMap relabel(const PyMap& m, int channels, int height, int width) const {
        own(m);
        require(channels >= 1 && height >= 1 && width >= 1 &&
                    1.0 * channels * height * width == static_cast<double>(m.map.plane()),
                shape_text(m.map) + " cannot be taken for another number of places");
        PyMap other = m;
        other.map.channels = channels;
        other.map.height = height;
        other.map.width = width;
        return other;
    }

private:
    struct Shape {
        int steps, channels, height, width;
    };

    Run run() const { return {samples_, omp_get_max_threads()}; }

    void own(const PyMap& m) const {
        require(m.samples == samples_ && m.kernels == &kernels_,
                shape_text(m.map) + " was made for another number of samples, or another instruction set");
    }

    void own(const PyCurrent& c) const {
        own(c.source);
        if (c.stored) own(*c.stored);
    }

    // Whether an array is [steps, samples, channels, height, width].
    template <class Array>
    bool has_shape(const Array& a, const Map& m) const {
        const int want[5] = {m.steps, samples_, m.channels, m.height, m.width};
        if (a.ndim() != 5) return false;
        for (size_t i = 0; i < 5; i++)
            if (a.shape(i) != static_cast<size_t>(want[i])) return false;
        return true;
    }

    static Shape input_shape(const PyTerm& t) {
        if (t.current) {
            const Geometry& g = t.current->connections->g;
            return {t.current->source.map.steps, g.c_out, g.out_h, g.out_w};
        }
        const Map& m = t.map->map;
        return {m.steps, m.channels, m.height, m.width};
    }

    std::vector<Term> check_terms(const std::vector<PyTerm>& terms, int pool, const PyMap& written) const {
        require(!terms.empty(), "neurons need at least one term");
        require(pool >= 1, "the side of a pool must be at least 1");
        own(written);
        const Map& out = written.map;
        const Shape first = input_shape(terms.front());
        const int side_h = std::min(pool, first.height), side_w = std::min(pool, first.width);
        require(out.channels == first.channels && out.height == first.height / side_h &&
                    out.width == first.width / side_w,
                shape_text(out) + " does not fit the neurons' input");
        std::vector<Term> plain;
        for (const PyTerm& t : terms) {
            const Shape s = input_shape(t);
            require(s.channels == first.channels && s.height == first.height && s.width == first.width &&
                        (s.steps == out.steps || (s.steps == 1 && terms.size() == 1)),
                    "the terms of a neuron have different shapes");
            Term p;
            if (t.current) {
                own(*t.current);
                p.current = &t.current->current;
                p.scale = t.scale.data();
                p.shift = t.shift.data();
            } else {
                own(*t.map);
                p.map = t.map->map;
            }
            plain.push_back(p);
        }
        return plain;
    }

    void check_gradient(const PyCurrent& c, const PyMap& grad_x, const Vector& a, const Vector& b,
                        const Vector& d) const {
        const Geometry& g = c.connections->g;
        const size_t channels = g.c_out;
        own(c);
        own(grad_x);
        require(
            grad_x.map.kind != Kind::Spikes && grad_x.map.same_shape({Kind::Float32, nullptr, c.source.map.steps,
                                                                      blocks_, g.c_out, g.out_h, g.out_w}),
            "the gradient of the layer's output does not fit " + shape_text(grad_x.map));
        require(a.size() == channels && b.size() == channels && d.size() == channels,
                "a, b and c need one entry per output channel");
    }

    void check_pool(const PyMap& pooled, int side, const PyMap& written) const {
        own(pooled);
        own(written);
        const Map &source = pooled.map, &out = written.map;
        require(side >= 1, "the side of a pool must be at least 1");
        const int h = source.height / std::min(side, source.height),
                  w = source.width / std::min(side, source.width);
        require(out.steps == source.steps && out.channels == source.channels && out.height == h && out.width == w,
                shape_text(source) + " pooled by " + std::to_string(side) + " does not fit " + shape_text(out));
    }

    void check_average(const PyMap& averaged, const PyMap& written, int side) const {
        own(averaged);
        own(written);
        const Map &source = averaged.map, &out = written.map;
        require(side >= 0 && out.steps == source.steps && out.channels == source.channels &&
                    (side == 0 || (out.height == source.height / side && out.width == source.width / side)),
                shape_text(source) + " averaged does not fit " + shape_text(out));
    }

    const Kernels& kernels_;
    int samples_, blocks_;
};

std::shared_ptr<Connections> make_connections(int c_in, int c_out, int height, int width,
                                              std::pair<int, int> kernel, int stride, std::pair<int, int> padding,
                                              std::optional<Positions> positions) {
    require(stride == 1 || stride == 2, "stride must be 1 or 2");
    const auto small = [](int n, int most) { return -most <= n && n <= most; };
    require(small(height, most_side) && small(width, most_side) && small(padding.first, most_side) &&
                small(padding.second, most_side) && small(kernel.first, 3 * most_side) &&
                small(kernel.second, 3 * most_side),
            "a layer of more than " + std::to_string(most_side) + " rows or columns is not supported");
    require(std::abs(1.0 * c_in * c_out * kernel.first * kernel.second) < most_places,
            "a layer of 2^31 places is not supported");
    Geometry g{c_in,          c_out,          height, width, kernel.first, kernel.second, stride,
               padding.first, padding.second, 0,      0};
    g.out_h = (height + 2 * g.pad_h - g.k_h) / stride + 1;
    g.out_w = (width + 2 * g.pad_w - g.k_w) / stride + 1;
    const size_t size = static_cast<size_t>(c_in) * c_out * g.k_h * g.k_w;
    return std::make_shared<Connections>(
        build_connections(g, positions ? positions->data() : nullptr, positions ? positions->size() : size));
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // back ends live until the interpreter ends
    m.doc() = "Kernels of the native engine; see ndsnn.engine.native.";
    nb::enum_<Kind>(m, "Kind")
        .value("SPIKES", Kind::Spikes)
        .value("FLOAT32", Kind::Float32)
        .value("FLOAT16", Kind::Float16);
    nb::enum_<Surrogate>(m, "Surrogate")
        .value("ATAN", Surrogate::Atan)
        .value("SIGMOID", Surrogate::Sigmoid)
        .value("TRIANGLE", Surrogate::Triangle)
        .value("RECTANGLE", Surrogate::Rectangle);
    nb::class_<Arena>(m, "Arena").def(nb::init<size_t>(), nb::arg("nbytes")).def_prop_ro("nbytes", &Arena::size);
    nb::class_<PyMap>(m, "Map")
        .def_prop_ro("kind", [](const PyMap& p) { return p.map.kind; })
        .def_prop_ro(
            "shape",
            [](const PyMap& p) { return std::make_tuple(p.map.steps, p.map.channels, p.map.height, p.map.width); })
        // What true values are multiplied by in this map; no kernel looks at it.
        .def_prop_rw("scale", [](const PyMap& p) { return *p.scale; }, [](PyMap& p, double s) { *p.scale = s; });
    nb::class_<Connections>(m, "Connections")
        .def_ro("nnz", &Connections::nnz)
        .def_prop_ro("density", &Connections::density)
        .def_prop_ro("square_sum",
                     [](const Connections& k) {
                         double total = 0;
                         for (size_t i = 0; i < k.nnz && k.values; i++)
                             total += static_cast<double>(k.values[i]) * k.values[i];
                         return total;
                     })
        .def_prop_ro("dense_shape",
                     [](const Connections& k) { return std::make_tuple(k.g.c_out, k.g.c_in, k.g.k_h, k.g.k_w); })
        // Rows of dL/dsource are written top down, each after the rows of dL/dy it needs have been read.
        .def_prop_ro("writes_in_place",
                     [](const Connections& k) {
                         const Geometry& g = k.g;
                         return g.c_in == g.c_out && g.stride == 1 && g.height == g.out_h && g.width == g.out_w;
                     })
        // The values stay where they are, and alive.
        .def("set_values", [](Connections& k, Floats values) {
            require(values.size() == k.nnz, "there are " + std::to_string(values.size()) + " values for " +
                                                std::to_string(k.nnz) + " alive weights");
            set_values(k, values.data(), omp_get_max_threads());
            k.keeper = std::make_shared<Floats>(std::move(values));
        });
    m.def("connections", &make_connections, nb::arg("c_in"), nb::arg("c_out"), nb::arg("height"), nb::arg("width"),
          nb::arg("kernel"), nb::arg("stride"), nb::arg("padding"), nb::arg("positions").none().noconvert());
    nb::class_<PyCurrent>(m, "Current")
        .def_ro("connections", &PyCurrent::connections)
        .def_ro("source", &PyCurrent::source)
        .def_prop_ro("channels", [](const PyCurrent& c) { return c.connections->g.c_out; })
        .def_prop_ro("shape", [](const PyCurrent& c) {
            const Geometry& g = c.connections->g;
            return std::make_tuple(c.source.map.steps, g.c_out, g.out_h, g.out_w);
        });
    nb::class_<PyTerm>(m, "Term");
    nb::class_<Neuron>(m, "Neuron")
        .def(
            "__init__",
            [](Neuron* n, float tau, float threshold, std::optional<float> reset, float subtract, bool decay_input,
               bool detach, Surrogate surrogate, float alpha) {
                new (n) Neuron{tau,         threshold, reset.value_or(0), subtract, reset.has_value(),
                               decay_input, detach,    surrogate,         alpha};
            },
            nb::arg("tau"), nb::arg("threshold"), nb::arg("reset").none(), nb::arg("subtract"),
            nb::arg("decay_input"), nb::arg("detach"), nb::arg("surrogate"), nb::arg("alpha"));
    nb::class_<Engine>(m, "Engine")
        .def(nb::init<int, const std::string&>(), nb::arg("samples"), nb::arg("isa") = "")
        .def_prop_ro("isa", &Engine::isa)
        .def_prop_ro("lanes", &Engine::lanes)
        .def_prop_ro("dense_gradient_channels", &Engine::dense_gradient_channels)
        .def("nbytes", &Engine::nbytes)
        .def("map", &Engine::map)
        .def("current", &Engine::current, nb::arg("connections"), nb::arg("source"), nb::arg("stored").none())
        .def("current_term", &Engine::current_term)
        .def("map_term", &Engine::map_term)
        // What is written into must not be a converted copy.
        .def("statistics", &Engine::statistics, nb::arg("current"), nb::arg("sum").noconvert(),
             nb::arg("squares").noconvert())
        .def("neuron_forward", &Engine::neuron_forward)
        .def("neuron_backward", &Engine::neuron_backward, nb::arg("terms"), nb::arg("neuron"), nb::arg("pool"),
             nb::arg("grad_out"), nb::arg("grad_x"), nb::arg("sum_gx").noconvert(),
             nb::arg("sum_gx_y").noconvert())
        .def("synapse_backward", &Engine::synapse_backward, nb::arg("current"), nb::arg("grad_x"), nb::arg("a"),
             nb::arg("b"), nb::arg("c"), nb::arg("grad_source").none(), nb::arg("accumulate"),
             nb::arg("grad_values").noconvert())
        .def("max_pool", &Engine::max_pool)
        .def("max_pool_backward", &Engine::max_pool_backward)
        .def("avg_pool", &Engine::avg_pool)
        .def("avg_pool_backward", &Engine::avg_pool_backward)
        .def("add", &Engine::add)
        .def("mean_square", &Engine::mean_square)
        .def("load", &Engine::load)
        .def("unload", &Engine::unload, nb::arg("source"), nb::arg("values").noconvert())
        .def("counts", &Engine::counts, nb::arg("source"), nb::arg("counts").noconvert())
        .def("dense_gradient", &Engine::dense_gradient, nb::arg("current"), nb::arg("grad_x"), nb::arg("a"),
             nb::arg("b"), nb::arg("c"), nb::arg("first"), nb::arg("channels"), nb::arg("gradient").noconvert())
        .def("relabel", &Engine::relabel);
    m.def("available_isas", &available_isas);
    m.def("max_threads", [] { return omp_get_max_threads(); });
    m.def(
        "fma_rate",
        [](const std::string& isa, double seconds) {
            require(seconds > 0 && seconds <= 60, "a rate is measured for up to 60 seconds");
            nb::gil_scoped_release release;
            return kernels_of(isa).fma_rate(omp_get_max_threads(), seconds);
        },
        nb::arg("isa") = "", nb::arg("seconds") = 0.2);
}
