// Classify images with ONNX Runtime's C++ API: one line of JSON for each image, on standard output.
//
//   classify model.onnx [--threads N] IMAGE...
//
// An IMAGE is a binary PPM (.ppm, P6) or PGM (.pgm, P5) of exactly the model's size, or, with any other name, raw uint8
// pixels N x H x W x C. The model transposes and normalises by itself: bytes go in as they are, or, where it was exported
// with --input float32, as so many floats. The class names are in the model's metadata; where a tool has dropped that,
// they are read from manifest.json beside it.

#define ORT_API_MANUAL_INIT  // so that a library older than the headers is an error message and not a crash
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using Bytes = std::vector<std::uint8_t>;

struct Shape {
  std::int64_t batch;  // as the model says it: a fixed number, or less than 1
  std::int64_t height, width, channels;
  std::size_t image() const { return static_cast<std::size_t>(height * width * channels); }
};

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

// ---- JSON, as much of it as class names need ----

void append_utf8(std::string& out, std::uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

class Json {
 public:
  // `what` says what is wrong where the text is not as it should be.
  Json(const std::string& text, const std::string& what) : text_(text), what_(what) {}

  // A list of strings and nothing after it.
  std::vector<std::string> names() {
    std::vector<std::string> found;
    each(']', [&] { found.push_back(string()); });
    if (peek() != '\0') bad();
    return found;
  }

  // The classes of all tasks of a manifest, in order.
  std::vector<std::string> classes() {
    std::vector<std::string> found;
    fields([&](const std::string& key) {
      if (key != "tasks") return skip();
      each(']', [&] {
        fields([&](const std::string& part) {
          if (part != "classes") return skip();
          each(']', [&] { found.push_back(string()); });
        });
      });
    });
    if (found.empty()) bad();
    return found;
  }

 private:
  // What stands between brackets, one item after another.
  template <class Item>
  void each(char end, Item item) {
    expect(end == ']' ? '[' : '{');
    if (peek() == end) {
      ++at_;
      return;
    }
    do item();
    while (next() == ',');
    if (text_[at_ - 1] != end) bad();
  }
  template <class Field>
  void fields(Field field) {
    each('}', [&] {
      const std::string key = string();
      expect(':');
      field(key);
    });
  }
  void skip() {  // a value of any kind
    const char first = peek();
    if (++depth_ > 64) bad();
    if (first == '"') {
      string();
    } else if (first == '{') {
      fields([&](const std::string&) { skip(); });
    } else if (first == '[') {
      each(']', [&] { skip(); });
    } else {
      const std::size_t start = at_;
      while (at_ < text_.size() && std::string(",]} \t\r\n").find(text_[at_]) == std::string::npos) ++at_;
      if (at_ == start) bad();
    }
    --depth_;
  }
  char peek() {  // the next character that is no space, '\0' at the end
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  char next() {
    const char found = peek();
    if (found == '\0') bad();
    ++at_;
    return found;
  }
  void expect(char wanted) { next() == wanted ? void() : bad(); }
  char raw() { return at_ < text_.size() ? text_[at_++] : (bad(), '\0'); }
  std::uint32_t hex4() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const char digit = raw();
      if (!std::isxdigit(static_cast<unsigned char>(digit))) bad();
      code = code * 16 + static_cast<std::uint32_t>(std::stoi(std::string(1, digit), nullptr, 16));
    }
    return code;
  }
  std::string string() {
    std::string out;
    expect('"');
    for (char letter = raw(); letter != '"'; letter = raw()) {
      if (static_cast<unsigned char>(letter) < 0x20) bad();
      if (letter != '\\') {
        out += letter;
        continue;
      }
      switch (letter = raw()) {
        case '"': case '\\': case '/': out += letter; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'n': out += '\n'; break;
        case 'r': out += '\r'; break;
        case 't': out += '\t'; break;
        case 'u': {
          std::uint32_t code = hex4();
          if (code >= 0xD800 && code < 0xDC00) {  // the first half of a pair
            if (raw() != '\\' || raw() != 'u') bad();
            const std::uint32_t low = hex4();
            if (low < 0xDC00 || low > 0xDFFF) bad();
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          } else if (code >= 0xDC00 && code < 0xE000) {
            bad();
          }
          append_utf8(out, code);
          break;
        }
        default: bad();
      }
    }
    return out;
  }
  [[noreturn]] void bad() const { fail(what_); }

  const std::string& text_;
  const std::string what_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

// Whether what begins at `at` steers a terminal: C0, DEL, C1, or a mark that turns the direction of writing. `code` and
// `size` tell what it is and how many bytes it has.
bool steers(const std::string& text, std::size_t at, unsigned& code, std::size_t& size) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  code = byte(at);
  size = 1;
  if (code == 0xC2) {
    code = byte(at + 1);
    size = 2;
    return code >= 0x80 && code < 0xA0;
  }
  if (code == 0xE2 && (byte(at + 1) == 0x80 || byte(at + 1) == 0x81)) {
    code = 0x2000u | (byte(at + 1) & 0x3Fu) << 6 | (byte(at + 2) & 0x3Fu);
    size = 3;
    return code == 0x200E || code == 0x200F || (code >= 0x2028 && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
  }
  return code < 0x20 || code == 0x7F;
}

// Text of other people's as it may be printed: what steers a terminal is spelt out, as JSON does it.
std::string plain(const std::string& text) {
  std::string out;
  unsigned code = 0;
  for (std::size_t at = 0, size = 1; at < text.size(); at += size) {
    if (steers(text, at, code, size)) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", code & 0xFFFFu);
      out += escape;
    } else {
      size = 1;
      out += text[at];
    }
  }
  return out;
}

std::string quoted(const std::string& text) {
  std::string out;
  for (const char letter : text) {
    if (letter == '"' || letter == '\\') out += '\\';
    out += letter;
  }
  return '"' + plain(out) + '"';
}

// ---- images ----

// A number of a PNM header; comments run from '#' to the end of the line.
std::int64_t header_number(const Bytes& data, std::size_t& at, const std::string& path) {
  while (at < data.size() && (std::isspace(data[at]) || data[at] == '#')) {
    const bool comment = data[at++] == '#';
    while (comment && at < data.size() && data[at] != '\n') ++at;
  }
  std::int64_t value = 0;
  const std::size_t start = at;
  for (; at < data.size() && std::isdigit(data[at]) && at - start < 9; ++at) value = value * 10 + (data[at] - '0');
  if (at == start) fail("'" + path + "' has a broken header");
  return value;
}

// The pixels of every image in a file, one after another.
Bytes read_pixels(const std::string& path, const Shape& shape) {
  std::ifstream file(std::filesystem::u8path(path), std::ios::binary);
  if (!file) fail("there is no image at '" + path + "'");
  Bytes data{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const std::string size =
      std::to_string(shape.width) + "x" + std::to_string(shape.height) + "x" + std::to_string(shape.channels);
  const std::string kind = std::filesystem::u8path(path).extension().string();
  if (kind != ".ppm" && kind != ".pgm") {
    if (data.empty() || data.size() % shape.image() != 0)
      fail("'" + path + "' has " + std::to_string(data.size()) + " bytes, which is no number of images of " + size);
    return data;
  }
  if (data.size() < 2 || data[0] != 'P' || (data[1] != '5' && data[1] != '6'))
    fail("'" + path + "' is neither a binary PPM (P6) nor a binary PGM (P5)");
  std::size_t at = 2;
  const std::int64_t channels = data[1] == '6' ? 3 : 1;
  const std::int64_t width = header_number(data, at, path);
  const std::int64_t height = header_number(data, at, path);
  const std::int64_t most = header_number(data, at, path);
  if (width != shape.width || height != shape.height || channels != shape.channels)
    fail("'" + path + "' is " + std::to_string(width) + "x" + std::to_string(height) + "x" + std::to_string(channels) +
         ", and the model takes " + size + " (width x height x channels)");
  if (most != 255) fail("'" + path + "' has the maximum " + std::to_string(most) + " (allowed: 255)");
  ++at;  // one white space ends the header
  if (data.size() < at + shape.image()) fail("'" + path + "' is truncated");
  const auto first = data.begin() + static_cast<std::ptrdiff_t>(at);
  return Bytes(first, first + static_cast<std::ptrdiff_t>(shape.image()));
}

// ---- the model ----

// The class names that the manifest beside a model says.
std::vector<std::string> names_beside(const std::string& path) {
  const std::filesystem::path place = std::filesystem::u8path(path).parent_path() / "manifest.json";
  std::ifstream file(place, std::ios::binary);
  if (!file) fail("'" + path + "' has no metadata 'classes', and no 'manifest.json' lies beside it");
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return Json(text, "'" + place.u8string() + "' does not name the classes of its tasks").classes();
}

class Classifier {
 public:
  Classifier(const std::string& path, int threads) : env_(ORT_LOGGING_LEVEL_ERROR, "classify") {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(threads);
    options.SetInterOpNumThreads(1);
    session_ = Ort::Session(env_, std::filesystem::u8path(path).c_str(), options);
    const Ort::TypeInfo type = session_.GetInputTypeInfo(0);  // what follows is a view into it
    const auto info = type.GetTensorTypeAndShapeInfo();
    const std::vector<std::int64_t> sides = info.GetShape();
    const auto kind = info.GetElementType();
    floats_ = kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    if ((kind != ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 && !floats_) || sides.size() != 4)
      fail("'" + path + "' does not take uint8 or float32 images (N, H, W, C)");
    shape = {sides[0], sides[1], sides[2], sides[3]};
    Ort::AllocatorWithDefaultOptions allocator;
    bool logits = false;
    std::string others;
    for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
      const auto name = session_.GetOutputNameAllocated(i, allocator);
      const std::string output = name.get();
      logits = logits || output == "logits";
      if (output != "logits" && output != "known") others += (others.empty() ? "" : ", ") + ("'" + output + "'");
    }
    if (!logits || !others.empty())
      fail("'" + path + "' gives " + (others.empty() ? "no 'logits'" : others) +
           ", and this program reads 'logits' alone, of the field 'class': run.py reads every field");
    const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("classes", allocator);
    if (!text) {
      names = names_beside(path);
    } else {
      const std::string list = text.get();
      names = Json(list, "the model's metadata 'classes' is not a JSON list of names: " + list).names();
    }
  }

  // Logits of so many images, one row after another; and in `known` whether each is of these classes at all (below 0: it
  // is not), where the model tells.
  std::vector<float> run(std::uint8_t* pixels, std::int64_t count) {
    const std::int64_t sides[] = {count, shape.height, shape.width, shape.channels};
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto bytes = static_cast<std::size_t>(count) * shape.image();
    if (floats_) numbers_.assign(pixels, pixels + bytes);
    const Ort::Value image = floats_ ? Ort::Value::CreateTensor<float>(memory, numbers_.data(), bytes, sides, 4)
                                     : Ort::Value::CreateTensor<std::uint8_t>(memory, pixels, bytes, sides, 4);
    const char* const inputs[] = {"image"};
    const char* const outputs[] = {"logits", "known"};
    const std::size_t several = session_.GetOutputCount();
    const auto results = session_.Run(Ort::RunOptions{nullptr}, inputs, &image, 1, outputs, several);
    const std::size_t found = results[0].GetTensorTypeAndShapeInfo().GetElementCount();
    if (found != static_cast<std::size_t>(count) * names.size())
      fail("the model has " + std::to_string(found / static_cast<std::size_t>(count)) + " logits for " +
           std::to_string(names.size()) + " class names");
    known.clear();
    if (several > 1) {
      const float* margins = results[1].GetTensorData<float>();
      known.assign(margins, margins + count);
    }
    const float* logits = results[0].GetTensorData<float>();
    return std::vector<float>(logits, logits + found);
  }

  Shape shape{};
  std::vector<std::string> names;
  std::vector<float> known;

 private:
  bool floats_ = false;
  std::vector<float> numbers_;
  Ort::Env env_;
  Ort::Session session_{nullptr};
};

void print_line(const std::string& path, std::size_t index, const std::vector<std::string>& names, const float* logits,
                const float* known) {
  const auto best = static_cast<std::size_t>(std::max_element(logits, logits + names.size()) - logits);
  std::string line = "{\"image\": " + quoted(path) + ", \"index\": " + std::to_string(index) +
                     ", \"class\": " + quoted(names[best]) + ", \"logits\": [";
  for (std::size_t i = 0; i < names.size(); ++i) {
    char number[32];
    std::snprintf(number, sizeof number, "%.9g", static_cast<double>(logits[i]));
    line += (i ? ", " : "") + std::string(std::isfinite(logits[i]) ? number : "null");
  }
  line += "]";
  if (known) {
    char number[32];
    std::snprintf(number, sizeof number, "%.9g", static_cast<double>(*known));
    line += std::string(", \"known\": ") + (std::isfinite(*known) ? number : "null");
  }
  std::printf("%s}\n", line.c_str());
}

void classify(Classifier& model, const std::string& path) {
  Bytes pixels = read_pixels(path, model.shape);
  const std::size_t each = model.shape.image(), count = pixels.size() / each;
  const bool fixed = model.shape.batch > 0;
  const auto batch = fixed ? static_cast<std::size_t>(model.shape.batch) : std::min<std::size_t>(count, 32);
  if (fixed) pixels.resize((count + batch - 1) / batch * batch * each);  // the last batch is filled up
  for (std::size_t start = 0; start < count; start += batch) {
    const std::size_t there = fixed ? batch : std::min(batch, count - start);
    const auto logits = model.run(pixels.data() + start * each, static_cast<std::int64_t>(there));
    for (std::size_t i = 0; i < std::min(there, count - start); ++i)
      print_line(path, start + i, model.names, logits.data() + i * model.names.size(),
                 model.known.empty() ? nullptr : model.known.data() + i);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  int threads = 1;
  const auto option = std::find(words.begin(), words.end(), "--threads");
  if (option != words.end()) {
    threads = option + 1 != words.end() ? std::atoi((option + 1)->c_str()) : 0;
    words.erase(option, option + 1 != words.end() ? option + 2 : option + 1);
  }
  if (words.size() < 2 || threads < 1) {
    std::fprintf(stderr, "usage: classify model.onnx [--threads N] IMAGE...\n");
    return 2;
  }
  try {
    if (!OrtGetApiBase()->GetApi(ORT_API_VERSION))
      fail(std::string("this ONNX Runtime is ") + OrtGetApiBase()->GetVersionString() + ", older than the headers (1." +
           std::to_string(ORT_API_VERSION) + ")");
#ifndef _WIN32
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // before it starts: else it keeps a device id and sends events
#else
    if (!std::getenv("ORT_DISABLE_TELEMETRY")) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#endif
    Ort::InitApi();
    Classifier model(words[0], threads);
    for (std::size_t i = 1; i < words.size(); ++i) classify(model, words[i]);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "error: %s\n", plain(error.what()).c_str());
    return 1;
  }
  return 0;
}
