#include <algorithm>
#include <cmath>
#include <sstream>

#include "kmers/report.hpp"

namespace kmers {
namespace {

constexpr double kWidth = 860;
constexpr double kHeight = 460;
constexpr double kLeft = 84;
constexpr double kRight = 24;
constexpr double kTop = 64;
constexpr double kBottom = 64;
constexpr double kPlotWidth = kWidth - kLeft - kRight;
constexpr double kPlotHeight = kHeight - kTop - kBottom;

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      default:
        result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
  }
  return result;
}

void text(std::ostream& out, double x, double y, const char* style, const std::string& what) {
  out << "<text x=\"" << x << "\" y=\"" << y << "\" " << style << ">" << escaped(what)
      << "</text>\n";
}

// A line across and a label for every power of ten up to the longest bar.
void powers_of_ten(std::ostream& out, const std::vector<Bin>& all) {
  const auto longest = std::ranges::max(all, {}, &Bin::kmers).kmers;
  for (std::uint64_t power = 1; power <= longest; power *= 10) {
    const double y = kTop + kPlotHeight * (1 - share({.kmers = power}, all));
    out << "<line x1=\"" << kLeft << "\" x2=\"" << kLeft + kPlotWidth << "\" y1=\"" << y
        << "\" y2=\"" << y << "\" stroke=\"#d8dde3\"/>\n";
    text(out, kLeft - 8, y + 4, "text-anchor=\"end\"", grouped(power));
    if (power > longest / 10) break;
  }
}

void bars(std::ostream& out, const std::vector<Bin>& all) {
  const double step = kPlotWidth / static_cast<double>(all.size());
  const std::size_t labelled = all.size() / 16 + 1;  // every so many bars
  for (std::size_t i = 0; i < all.size(); ++i) {
    const double x = kLeft + step * static_cast<double>(i);
    const double height = kPlotHeight * share(all[i], all);
    out << "<rect x=\"" << x + step * 0.08 << "\" y=\"" << kTop + kPlotHeight - height
        << "\" width=\"" << step * 0.84 << "\" height=\"" << height << "\" fill=\""
        << (all[i].rest ? "#9aa5b1" : "#2f6f9f") << "\"><title>" << escaped(label(all[i])) << ": "
        << grouped(all[i].kmers) << " k-mers</title></rect>\n";
    const bool crowded = all.back().rest && i + 1 < all.size() && i + labelled >= all.size();
    if (all[i].rest || (i % labelled == 0 && !crowded)) {
      text(out, x + step / 2, kTop + kPlotHeight + 18, "text-anchor=\"middle\"",
           all[i].rest ? "more" : std::to_string(all[i].first));
    }
  }
}

}  // namespace

std::string histogram_svg(const Spectrum& spectrum, const std::string& title) {
  std::ostringstream out;
  out.precision(1);
  out << std::fixed << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << kWidth << " "
      << kHeight << "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n"
      << "<rect width=\"" << kWidth << "\" height=\"" << kHeight << "\" fill=\"#fff\"/>\n";
  text(out, kLeft, 28, "font-size=\"17\"", title);
  text(out, kLeft, 48, "fill=\"#667\"",
       grouped(spectrum.distinct) + " different k-mers, " + grouped(spectrum.total) + " in all");
  const std::vector<Bin> all = bins(spectrum, 60);
  if (!all.empty()) {
    powers_of_ten(out, all);
    bars(out, all);
  }
  out << "<line x1=\"" << kLeft << "\" x2=\"" << kLeft + kPlotWidth << "\" y1=\""
      << kTop + kPlotHeight << "\" y2=\"" << kTop + kPlotHeight << "\" stroke=\"#333\"/>\n";
  text(out, kLeft + kPlotWidth / 2, kHeight - 22, "text-anchor=\"middle\"",
       "how often a k-mer was seen");
  out << "<g transform=\"rotate(-90 20 " << kTop + kPlotHeight / 2 << ")\">";
  text(out, 20, kTop + kPlotHeight / 2, "text-anchor=\"middle\"", "different k-mers (log)");
  out << "</g>\n</svg>\n";
  return out.str();
}

}  // namespace kmers
