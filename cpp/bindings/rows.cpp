#include "rows.h"

#include "bindings.h"

namespace raphson::bindings {

std::unique_ptr<Rows> Rows::dense(const py::array& values) {
    std::unique_ptr<Rows> made(new Rows);
    made->values_ = values;
    RowBlock& b = made->block_;
    b.type = values.itemsize() == 8 ? DType::float64 : DType::float32;
    b.values = values.data();
    b.rows = values.shape(0);
    b.cols = values.shape(1);
    b.stride = values.strides(0) / values.itemsize();
    made->source_ = RowSource::of(b);
    return made;
}

std::unique_ptr<Rows> Rows::compressed(const py::array& values, const py::array_t<std::int64_t>& starts,
                                       const py::array_t<std::int32_t>& index, std::int64_t cols) {
    std::unique_ptr<Rows> made(new Rows);
    made->values_ = values;
    made->starts_ = starts;
    made->index_ = index;
    RowBlock& b = made->block_;
    b.type = values.itemsize() == 8 ? DType::float64 : DType::float32;
    b.values = values.data();
    b.rows = starts.size() - 1;
    b.cols = cols;
    b.starts = starts.data();
    b.index = index.data();
    made->source_ = RowSource::of(b);
    return made;
}

std::unique_ptr<Rows> Rows::blocks(py::object make, std::int64_t rows, std::int64_t cols) {
    std::unique_ptr<Rows> made(new Rows);
    made->make_ = std::move(make);
    made->source_.rows = rows;
    made->source_.cols = cols;
    const Rows* self = made.get();
    made->source_.visit = [self](const RowSource::Body& body) {
        const py::gil_scoped_acquire held;
        std::int64_t first = 0;
        for (const py::handle item : py::reinterpret_steal<py::object>(PyObject_GetIter(self->make_().ptr()))) {
            const auto keep = py::reinterpret_borrow<py::object>(item);
            const Rows& part = py::cast<const Rows&>(keep);
            {
                const py::gil_scoped_release released;
                body(part.block_, first);
            }
            first += part.block_.rows;
        }
    };
    return made;
}

double Rows::size() const {
    return source_.whole != nullptr ? static_cast<double>(source_.whole->size()) : static_cast<double>(source_.rows) * static_cast<double>(source_.cols);
}

void bind_rows(py::module_& m) {
    py::class_<Rows>(m, "Rows")
        .def_static("dense", &Rows::dense)
        .def_static("compressed", &Rows::compressed)
        .def_static("blocks", &Rows::blocks);
}

}  // namespace raphson::bindings
