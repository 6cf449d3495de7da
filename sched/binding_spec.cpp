#include "sched/binding_spec.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <millrace/errors.hpp>
#include <optional>
#include <utility>

namespace millrace::sched {
namespace {

constexpr std::size_t kMaxPlaces = 65536;
constexpr std::size_t kMaxListedCpus = std::size_t{1} << 20;

constexpr std::array<std::pair<std::string_view, Policy>, 7> kPolicies = {{
    {"none", Policy::none},
    {"compact", Policy::compact},
    {"spread", Policy::spread},
    {"numa", Policy::numa},
    {"l3", Policy::l3},
    {"core", Policy::core},
    {"thread", Policy::thread},
}};

constexpr std::array<std::pair<std::string_view, Level>, 17> kTypes = {{
    {"machine", Level::machine},
    {"all", Level::machine},
    {"root", Level::machine},
    {"package", Level::package},
    {"pack", Level::package},
    {"socket", Level::package},
    {"numa", Level::numa},
    {"numanode", Level::numa},
    {"node", Level::numa},
    {"l3", Level::l3},
    {"l3cache", Level::l3},
    {"l2", Level::l2},
    {"l2cache", Level::l2},
    {"core", Level::core},
    {"pu", Level::pu},
    {"thread", Level::pu},
    {"hwthread", Level::pu},
}};

constexpr std::array<std::pair<std::string_view, Level>, 5> kAbstractPlaces = {{
    {"threads", Level::pu},
    {"cores", Level::core},
    {"ll_caches", Level::l3},
    {"numa_domains", Level::numa},
    {"sockets", Level::package},
}};

template <class Table>
auto look_up(const Table& table, std::string_view word)
    -> std::optional<decltype(table.front().second)> {
  for (const auto& [name, value] : table) {
    if (name == word) return value;
  }
  return std::nullopt;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

// Recursive descent over one text; every member reads what its name says at the position.
class Parser {
 public:
  explicit Parser(std::string_view text) : shown_(text), text_(text) {
    for (char& c : text_) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
  }

  BindingSpec binding() {
    BindingSpec spec;
    spec.text = shown_;
    if (text_.empty()) fail("empty text", "");
    if (const auto policy = look_up(kPolicies, text_)) {
      spec.policy = *policy;
    } else if (is_places()) {
      places(spec);
    } else if (is_digit()) {
      spec.policy = Policy::divided;
      cpu_list(spec);
    } else {
      spec.policy = Policy::divided;
      locations(spec);
    }
    return spec;
  }

 private:
  [[noreturn]] void fail(std::string_view what, std::string_view part) const {
    std::string message = "binding '" + shown_ + "': " + std::string(what);
    if (!part.empty()) message += " '" + std::string(part) + "'";
    throw ValueError(message);
  }
  // What is left, for messages.
  [[nodiscard]] std::string_view rest() const { return std::string_view(text_).substr(at_); }
  [[nodiscard]] bool at_end() const { return at_ == text_.size(); }
  [[nodiscard]] bool is(char c) const { return !at_end() && text_[at_] == c; }
  [[nodiscard]] bool is_digit() const {
    return !at_end() && text_[at_] >= '0' && text_[at_] <= '9';
  }
  bool skip(char c) {
    if (!is(c)) return false;
    ++at_;
    return true;
  }
  void blanks() {
    while (is(' ') || is('\t')) ++at_;
  }
  void expect(char c) {
    blanks();
    if (skip(c)) return;
    if (at_end()) fail(std::string("ends where '") + c + "' is missing", "");
    fail(std::string("expected '") + c + "' at", rest());
  }
  std::string_view word() {
    const std::size_t begin = at_;
    while (!at_end() && ((text_[at_] >= 'a' && text_[at_] <= 'z') || text_[at_] == '_' ||
                         (at_ > begin && is_digit()))) {
      ++at_;
    }
    return std::string_view(text_).substr(begin, at_ - begin);
  }
  int number() {
    int value = 0;
    const char* const begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), value);
    if (!is_digit()) fail("expected a number at", at_end() ? "the end" : rest());
    if (error != std::errc() || value > kMaxCpu) {
      fail("too large a number", {begin, static_cast<std::size_t>(end - begin)});
    }
    at_ += static_cast<std::size_t>(end - begin);
    return value;
  }
  int signed_number() { return skip('-') ? -number() : (skip('+'), number()); }

  // --- places ---
  [[nodiscard]] bool is_places() {
    if (is('{') || is('!')) return true;
    const std::size_t begin = at_;
    const std::string_view first = word();
    const bool prefix = (first == "spread" || first == "close") && (is(' ') || is('\t'));
    at_ = begin;
    return prefix || look_up(kAbstractPlaces, first).has_value();
  }

  void places(BindingSpec& spec) {
    spec.policy = Policy::places;
    if (!is('{') && !is('!')) {
      std::string_view name = word();
      if (name == "spread" || name == "close") {
        spec.sparse = name == "spread";
        blanks();
        name = word();
      }
      if (!name.empty()) return abstract_places(spec, name);
    }
    do {
      blanks();
      interval(spec);
      blanks();
    } while (skip(','));
    if (!at_end()) fail("unexpected text", rest());
    if (spec.places.empty()) fail("no place is left", "");
  }

  void abstract_places(BindingSpec& spec, std::string_view name) {
    const auto level = look_up(kAbstractPlaces, name);
    if (!level) fail("unknown places", name);
    spec.abstract = true;
    spec.level = *level;
    blanks();
    if (skip('(')) {
      blanks();
      spec.limit = number();
      if (spec.limit == 0) fail("no places in", shown_);
      expect(')');
      blanks();
    }
    if (!at_end()) fail("unexpected text", rest());
  }

  void interval(BindingSpec& spec) {
    const std::size_t begin = at_;
    if (skip('!')) {
      const CpuSet excluded = place();
      std::erase(spec.places, excluded);
      return;
    }
    const CpuSet first = place();
    const IndexRange repeat = count_and_stride(static_cast<int>(first.size()));
    const std::string_view part = std::string_view(text_).substr(begin, at_ - begin);
    listed_ += first.size() * static_cast<std::size_t>(repeat.count);
    if (spec.places.size() + static_cast<std::size_t>(repeat.count) > kMaxPlaces ||
        listed_ > kMaxListedCpus) {
      fail("too many places in", part);
    }
    for (int i = 0; i < repeat.count; ++i) {
      CpuSet shifted = first;
      for (int& cpu : shifted) {
        cpu += i * repeat.stride;
        if (cpu < 0 || cpu > kMaxCpu) fail("cpu out of range in", part);
      }
      spec.places.push_back(std::move(shifted));
    }
  }

  // [":" count [":" stride]]; the stride is 1 for resources, for places the number of cpus.
  IndexRange count_and_stride(int default_stride) {
    IndexRange range{0, 1, default_stride};
    blanks();
    if (!skip(':')) return range;
    blanks();
    range.count = number();
    if (range.count == 0) fail("a count of 0 before", at_end() ? "the end" : rest());
    blanks();
    if (skip(':')) {
      blanks();
      range.stride = signed_number();
    }
    return range;
  }

  CpuSet place() {
    blanks();
    const std::size_t begin = at_;
    expect('{');
    std::vector<int> cpus;
    std::vector<int> excluded;
    do {
      blanks();
      if (skip('!')) {
        excluded.push_back(number());
        blanks();
        continue;
      }
      const int first = number();
      const IndexRange repeat = count_and_stride(1);
      for (int i = 0; i < repeat.count; ++i) {
        const int cpu = first + i * repeat.stride;
        if (cpu < 0 || cpu > kMaxCpu || cpus.size() > kMaxPlaces) {
          fail("cpu out of range in", std::string_view(text_).substr(begin, at_ - begin));
        }
        cpus.push_back(cpu);
      }
    } while (skip(','));
    expect('}');
    CpuSet result = cpu_difference(make_cpu_set(std::move(cpus)), make_cpu_set(excluded));
    if (result.empty()) fail("empty place", std::string_view(text_).substr(begin, at_ - begin));
    return result;
  }

  // --- cpu lists and locations ---
  void cpu_list(BindingSpec& spec) {
    try {
      spec.cpus = parse_cpu_list(text_);
    } catch (const ValueError& error) {
      throw ValueError("binding '" + shown_ + "': " + error.what());
    }
  }

  void locations(BindingSpec& spec) {
    do {
      blanks();
      if (rest().starts_with("hwloc:")) at_ += 6;
      spec.locations.push_back(location());
      if (spec.locations.size() > kMaxPlaces) fail("too many locations at", rest());
      const bool blank = is(' ') || is('\t');
      blanks();
      if (!skip(',') && !blank) break;
    } while (!at_end());
    if (!at_end()) fail("unexpected text", rest());
  }

  std::vector<LocationStep> location() {
    std::vector<LocationStep> steps;
    do {
      const std::size_t begin = at_;
      const std::string_view name = word();
      const auto level = look_up(kTypes, name);
      if (name.empty()) fail("expected a name at", at_end() ? "the end" : rest());
      if (!level) fail(steps.empty() ? "unknown name" : "unknown object", name);
      LocationStep step{*level, {}};
      if (skip(':')) {
        step.index = index();
      } else if (*level != Level::machine) {
        fail("index missing after", std::string_view(text_).substr(begin, at_ - begin));
      }
      steps.push_back(step);
    } while (skip('.'));
    return steps;
  }

  IndexRange index() {
    if (!is_digit()) {
      const std::string_view name = word();
      if (name == "all") return {0, -1, 1};
      if (name == "even") return {0, -1, 2};
      if (name == "odd") return {1, -1, 2};
      fail("bad index", name.empty() ? (at_end() ? std::string_view("the end") : rest()) : name);
    }
    IndexRange range{number(), 1, 1};
    if (skip('-')) {
      range.count = -1;
      if (is_digit()) {
        const int last = number();
        if (last < range.first) fail("range runs backwards: ..-", std::to_string(last));
        range.count = last - range.first + 1;
      }
    } else if (skip(':')) {
      range.count = number();
      if (range.count == 0) fail("a count of 0 before", at_end() ? "the end" : rest());
      if (skip(':')) range.stride = number();
      if (range.stride == 0) fail("a stride of 0 before", at_end() ? "the end" : rest());
    }
    return range;
  }

  std::string shown_;  // as written
  std::string text_;   // in small letters
  std::size_t at_ = 0;
  std::size_t listed_ = 0;
};

}  // namespace

BindingSpec parse_binding(std::string_view text) { return Parser(trim(text)).binding(); }

}  // namespace millrace::sched
