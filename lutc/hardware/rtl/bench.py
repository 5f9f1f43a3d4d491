"""Self-checking test benches for streams: every word in, every word out compared with the expected one, twice: at full
rate, and with pauses of both sides at random.

A unit's bench reads NAME_in.memh and NAME_expected.memh and writes what came out to NAME_out.txt; the top, NAME_tb,
runs all of them and ends with a line "PASS ..." or "FAIL ...". They run under Verilator (--binary --timing) and Icarus.
"""

from __future__ import annotations

from collections.abc import Sequence

from lutc.hardware.streams import Stream


def files(stream: Stream) -> dict[str, str]:
    """The stream's images and its bench, by file name."""
    _, bits = stream.packed()
    return {f"{stream.module}_bench.sv": _text(stream, bits), **stream.images()}


def _text(stream: Stream, bits: int) -> str:
    ports, n = stream.ports, stream.words.size
    data, out = ports.in_bits, ports.out_bits
    declared = [
        f"  logic {f'[{width - 1}:0] ' if width > 1 else ''}{name};"
        for _, name, width, _ in ports.named()
        if name not in ("clk", "rst")
    ]
    connections = ", ".join(f".{name}({name})" for _, name, _, _ in ports.named())
    at = data
    fields = [f"  assign in_data = word[{data - 1}:0];"]
    if ports.last:
        fields.append(f"  assign in_last = word[{at}];")
        at += 1
    if ports.select_bits:
        fields.append(f"  assign in_select = word[{bits - 1}:{at}];")
    wrong = f"out_last !== answered[{data}]" if ports.last else "1'b0"
    lasts = [f"  logic [{bits - 1}:0] answered;", f"  assign answered = stimuli[seen < {n} ? seen : 0];"]
    lasts = [*(lasts if ports.last else []), "  logic wrong_last;", f"  assign wrong_last = {wrong};"]
    load, loaded = [], "1'b1"
    if stream.load is not None:
        address, width = ports.load
        m, loaded = stream.load.shape[0], "loaded"
        load = [
            f"  logic [{address + width - 1}:0] images [0:{m - 1}];",
            f'  initial $readmemh("{stream.module}_load.memh", images);',
            "  integer written;",
            "  logic loaded;",
            f"  assign loaded = written == {m};",
            "  assign load_valid = ~rst & ~loaded;",
            "  assign {load_address, load_data} = images[loaded ? 0 : written];",
            "  always @(posedge clk) if (rst) written <= 0; else if (~loaded) written <= written + 1;",
        ]
    settings = {
        "module": stream.module,
        "n": n,
        "last": n - 1,
        "bits": bits - 1,
        "out": out - 1,
        "declared": "\n".join(declared),
        "connections": connections,
        "fields": "\n".join([*fields, *lasts, *load]),
        "loaded": loaded,
    }
    return _BENCH % settings


_BENCH = """\
// feeds %(module)s with all words twice: at full rate, then with pauses of both sides; counts answers that differ
module %(module)s_bench (
  input logic clk,
  input logic rst,
  output logic done,
  output integer errors
);
%(declared)s
  logic [%(bits)d:0] stimuli [0:%(last)d];
  logic [%(out)d:0] expected [0:%(last)d];
  initial $readmemh("%(module)s_in.memh", stimuli);
  initial $readmemh("%(module)s_expected.memh", expected);
  integer fed, seen, round, file;
  logic [%(bits)d:0] word;
  logic [31:0] noise;
  logic feeding, taking;
  assign word = stimuli[fed < %(n)d ? fed : 0];
%(fields)s
  assign in_valid = ~rst & %(loaded)s & fed < %(n)d & feeding;
  assign out_ready = taking;
  assign done = round == 2;
  initial file = $fopen("%(module)s_out.txt", "w");
  %(module)s dut (%(connections)s);
  always @(posedge clk)
    if (rst) begin
      fed <= 0; seen <= 0; round <= 0; errors <= 0; noise <= 32'h2545f491; feeding <= 1'b1; taking <= 1'b1;
    end else begin
      noise <= {noise[30:0], noise[31] ^ noise[21] ^ noise[1] ^ noise[0]};
      if (in_valid & in_ready) fed <= fed + 1;
      // a word that was offered stays until it is taken
      feeding <= round == 0 | (in_valid & ~in_ready) | noise[3];
      taking <= round == 0 | noise[7];
      if (out_valid & out_ready) begin
        if (round == 0) $fdisplay(file, "%%h", out_data);
        if (out_data !== expected[seen] | wrong_last) begin
          errors <= errors + 1;
          if (errors < 5) $display("%(module)s: word %%0d is %%h, expected %%h", seen, out_data, expected[seen]);
        end
        seen <= seen + 1;
        if (seen == %(n)d - 1) begin
          round <= round + 1;
          if (round == 0) begin fed <= 0; seen <= 0; end
          else $fclose(file);
        end
      end
    end
endmodule
"""


def top(name: str, streams: Sequence[Stream]) -> str:
    """NAME_tb: clock, reset, all benches, the verdict, and an end where an answer never comes."""
    modules = [stream.module for stream in streams]
    total = sum(stream.words.size for stream in streams)
    limit = 40 * max(stream.words.size for stream in streams) + 100000
    instances = [
        f"  {m}_bench bench_{i} (.clk(clk), .rst(rst), .done(done[{i}]), .errors(errors_{i}));"
        for i, m in enumerate(modules)
    ]
    counts = " + ".join(f"errors_{i}" for i in range(len(modules)))
    return "\n".join(
        [
            "`timescale 1ns / 1ps",
            f"module {name}_tb;",
            "  logic clk;",
            "  logic rst;",
            f"  logic [{len(modules) - 1}:0] done;",
            *(f"  integer errors_{i};" for i in range(len(modules))),
            "  integer cycles;",
            *instances,
            "  initial clk = 1'b0;",
            "  always #5 clk = ~clk;",
            "  initial begin",
            "    rst = 1'b1;",
            "    #42 rst = 1'b0;",
            "  end",
            "  always @(posedge clk) begin",
            "    cycles <= rst ? 0 : cycles + 1;",
            "    if (~rst & (&done)) begin",
            f'      if ({counts} == 0) $display("PASS {total} words twice");',
            f'      else $display("FAIL %0d answers differ", {counts});',
            "      $finish;",
            f"    end else if (~rst & cycles > {limit}) begin",
            '      $display("FAIL no answer: done %b", done);',
            "      $finish;",
            "    end",
            "  end",
            "endmodule",
            "",
        ]
    )
