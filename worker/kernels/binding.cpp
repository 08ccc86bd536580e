// The module `step` as Python sees it. A pass and a copy run without the interpreter's lock.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "floors.h"
#include "model.h"

namespace py = pybind11;
using namespace penstock;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
const T* checked(const Array<T>& array, size_t count, const char* what) {
  if (static_cast<size_t>(array.size()) != count)
    throw std::invalid_argument(std::string(what) + " has " + std::to_string(array.size()) + " numbers, not " +
                                std::to_string(count));
  return array.data();
}

void set_product(Model& model, int layer, int product, const Array<int8_t>& codes, const Array<float>& scales,
                 const Array<float>& bias, float input_scale) {
  const auto [out, in] = model.architecture().shape(product);
  model.set_product(layer, product, checked(codes, static_cast<size_t>(out) * in, "codes"),
                    checked(scales, out, "scales"), checked(bias, out, "bias"), input_scale);
}

void set_norm(Model& model, int number, const Array<float>& weight, const Array<float>& bias) {
  const size_t width = model.architecture().width;
  model.set_norm(number, checked(weight, width, "a norm's weight"), checked(bias, width, "a norm's bias"));
}

void set_positions(Model& model, const Array<float>& positions) {
  const auto& a = model.architecture();
  model.set_positions(checked(positions, static_cast<size_t>(a.context) * a.width, "wpe"));
}

/// set_tokens and set_head: weights [vocab, width].
template <auto Set>
void set_vocabulary(Model& model, const Array<int8_t>& codes, const Array<float>& scales, float input_scale) {
  const auto& a = model.architecture();
  (model.*Set)(checked(codes, static_cast<size_t>(a.vocab) * a.width, "codes"), checked(scales, a.vocab, "scales"),
               input_scale);
}

/// down [rank, in] and up [rank, out] of (layer, product).
using Pairs = std::map<std::pair<int, int>, std::pair<Array<float>, Array<float>>>;

int adapt(Model& model, const Pairs& pairs) {
  Adapter adapter{std::vector<std::array<LowRank, PRODUCTS>>(model.architecture().layers)};
  for (const auto& [place, pair] : pairs) {
    const auto& [down, up] = pair;
    const auto [out, in] = model.architecture().shape(place.second);
    const int rank = static_cast<int>(down.shape(0));
    const float* first = checked(down, static_cast<size_t>(rank) * in, "lora_A");
    const float* second = checked(up, static_cast<size_t>(rank) * out, "lora_B");
    LowRank& low_rank = adapter.layers.at(place.first).at(place.second);
    low_rank = {rank, {first, first + down.size()}, {second, second + up.size()}};
  }
  return model.adapt(std::move(adapter));
}


void run(Model& model, std::vector<int> tokens, std::vector<int> slots, std::vector<int> positions,
         std::vector<int> adapters, std::vector<int> wanted, const std::array<uintptr_t, 3>& output, int threads) {
  const Pass pass{std::move(tokens),   std::move(slots),
                  std::move(positions), std::move(adapters),
                  std::move(wanted),   reinterpret_cast<float*>(output[0]),
                  reinterpret_cast<int64_t*>(output[1]), reinterpret_cast<bool*>(output[2])};
  const py::gil_scoped_release others_may_run;
  model.run(pass, threads);
}

std::map<std::string, double> profile(Model& model, const py::function& work) {
  std::array<double, PARTS> times{};
  model.times = &times;
  work();
  model.times = nullptr;
  const char* names[PARTS] = {"embed", "norms", "c_attn", "attention", "attn.c_proj", "c_fc", "mlp.c_proj", "head"};
  std::map<std::string, double> found;
  for (int part = 0; part < PARTS; ++part) found[names[part]] = times[part];
  return found;
}

}  // namespace

PYBIND11_MODULE(step, module) {
  py::class_<Architecture>(module, "Architecture")
      .def(py::init<int, int, int, int, int, int, float, bool, std::vector<float>>(), py::kw_only(), py::arg("layers"),
           py::arg("width"), py::arg("heads"), py::arg("inner"), py::arg("vocab"), py::arg("context"),
           py::arg("epsilon"), py::arg("tied"), py::arg("attention_scales"));
  py::class_<Model>(module, "Model")
      .def(py::init<Architecture>())
      .def("set_product", &set_product)
      .def("set_norm", &set_norm)
      .def("set_positions", &set_positions)
      .def("set_tokens", &set_vocabulary<&Model::set_tokens>)
      .def("set_head", &set_vocabulary<&Model::set_head>)
      .def("reserve", &Model::reserve)
      .def("clear", &Model::clear)
      .def("copy", &Model::copy, py::call_guard<py::gil_scoped_release>())
      .def("run", &run)
      .def("adapt", &adapt)
      .def("forget", &Model::forget)
      .def("profile", &profile)
      .def_property_readonly("slot_bytes", &Model::slot_bytes);
  module.def("read_bandwidth", &read_bandwidth, py::call_guard<py::gil_scoped_release>());
  module.def("dot_rate", &dot_rate, py::call_guard<py::gil_scoped_release>());
}
