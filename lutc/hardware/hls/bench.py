"""The program that feeds the C++ of units with every word and compares what comes back: it reads NAME_in.memh and
NAME_expected.memh, writes NAME_out.txt, and ends with a line "PASS ..." or "FAIL ...".
"""

from __future__ import annotations

from collections.abc import Sequence

from lutc.hardware.options import Options
from lutc.hardware.streams import Stream

_HEAD = """\
#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <vector>

static std::vector<uint64_t> words(const char* path) {
  std::vector<uint64_t> found;
  char line[512];
  std::FILE* file = std::fopen(path, "r");
  if (!file) return found;
  while (std::fgets(line, sizeof line, file))
    if (line[0] != '/') found.push_back(std::strtoull(line, nullptr, 16));
  std::fclose(file);
  return found;
}

static int64_t field(uint64_t word, int from, int bits) {
  const uint64_t value = (word >> from) & (~UINT64_C(0) >> (64 - bits));
  return static_cast<int64_t>(value << (64 - bits)) >> (64 - bits);
}

struct Answers {
  long wrong;
  std::vector<uint64_t> expected;
  std::FILE* file;
  size_t seen;
  Answers(const char* expected_path, const char* path)
      : wrong(0), expected(words(expected_path)), file(std::fopen(path, "w")), seen(0) {}
  void give(int64_t answer, int bits) {
    const uint64_t word = static_cast<uint64_t>(answer) & (~UINT64_C(0) >> (64 - bits));
    std::fprintf(file, "%0*llx\\n", (bits + 3) / 4, static_cast<unsigned long long>(word));
    wrong += seen >= expected.size() || expected[seen] != word;
    ++seen;
  }
  long end() {
    std::fclose(file);
    return wrong + (seen == expected.size() ? 0 : 1);
  }
};
"""


def program(streams: Sequence[Stream], options: Options) -> str:
    includes = "".join(f'#include "{stream.module}.hpp"\n' for stream in streams)
    parts = [f"{includes}{_HEAD}"]
    parts += [_rows(stream, options) if options.row is not None else _codes(stream, options) for stream in streams]
    total = sum(stream.words.size for stream in streams)
    calls = " + ".join(f"run_{stream.module}()" for stream in streams)
    parts.append(
        f"int main() {{\n  const long wrong = {calls};\n"
        f'  if (wrong == 0) std::printf("PASS {total} words\\n");\n'
        '  else std::printf("FAIL %ld answers differ\\n", wrong);\n  return 0;\n}\n'
    )
    return "\n".join(parts)


def _opened(stream: Stream) -> str:
    name = stream.module
    return (
        f"static long run_{name}() {{\n"
        f'  const std::vector<uint64_t> fed = words("{name}_in.memh");\n'
        f'  Answers answers("{name}_expected.memh", "{name}_out.txt");\n'
    )


def _codes(stream: Stream, options: Options) -> str:
    name, ports = stream.module, stream.ports
    given = "q"
    if ports.select_bits:
        given = f"static_cast<int>((fed[i] >> {ports.in_bits}) & {(1 << ports.select_bits) - 1}), {given}"
    held = ""
    if options.loadable:
        several = stream.select is not None
        names = [f"{name}_lines()"]
        if stream.select is not None:
            names = [f"{name}_{i}_lines()" for i in range(int(stream.select.max()) + 1)]
        held = f"  const auto held = std::vector<std::decay<decltype({names[0]})>::type>{{{', '.join(names)}}};\n"
        given = ("held.data(), " if several else "held[0], ") + given
    kind = "int8_t" if ports.in_bits <= 8 else "int16_t"
    return (
        f"{_opened(stream)}{held}"
        "  for (size_t i = 0; i < fed.size(); ++i) {\n"
        f"    const {kind} q = static_cast<{kind}>(field(fed[i], 0, {ports.in_bits}));\n"
        f"    answers.give({name}({given}), {ports.out_bits});\n"
        "  }\n  return answers.end();\n}\n"
    )


def _rows(stream: Stream, options: Options) -> str:
    size = ", static_cast<int>(row.size())" if options.unit == "softmax" else ""
    return (
        f"{_opened(stream)}  std::vector<int8_t> row;\n"
        "  for (size_t i = 0; i < fed.size(); ++i) {\n"
        "    row.push_back(static_cast<int8_t>(field(fed[i], 0, 8)));\n"
        "    if (!((fed[i] >> 8) & 1)) continue;\n"
        "    std::vector<int8_t> out(row.size());\n"
        f"    {stream.module}(row.data(), out.data(){size});\n"
        "    for (size_t j = 0; j < out.size(); ++j) answers.give(out[j], 8);\n"
        "    row.clear();\n  }\n  return answers.end();\n}\n"
    )
