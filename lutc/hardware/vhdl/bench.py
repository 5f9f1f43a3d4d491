"""Self-checking benches in VHDL, which do what those in SystemVerilog do: all words at full rate, then again with
pauses of both sides, and a last line "PASS ..." or "FAIL ...".
"""

from __future__ import annotations

from collections.abc import Sequence

from lutc.hardware.streams import Stream
from lutc.hardware.vhdl.text import port_kind

_PACKAGE = """\
library ieee;
use ieee.std_logic_1164.all;
use std.textio.all;

package lutc_bench is
  type words is array (natural range <>) of std_logic_vector(127 downto 0);
  -- words of a $readmemh file, a line each; lines that begin with / are remarks
  impure function read_words(name : string; count : natural) return words;
end package lutc_bench;

package body lutc_bench is
  impure function read_words(name : string; count : natural) return words is
    file source : text open read_mode is name;
    variable row : line;
    variable found : words(0 to count - 1) := (others => (others => '0'));
    variable n : natural := 0;
    variable digits : natural;
  begin
    while n < count and not endfile(source) loop
      readline(source, row);
      if row'length > 0 and row(row'left) /= '/' then
        digits := row'length;
        hread(row, found(n)(4 * digits - 1 downto 0));
        n := n + 1;
      end if;
    end loop;
    return found;
  end function;
end package body lutc_bench;
"""

_BENCH = """\
library ieee;
use ieee.std_logic_1164.all;
use ieee.numeric_std.all;
use std.textio.all;
use work.lutc_bench.all;

-- feeds {name} with all words twice: at full rate, then with pauses of both sides; counts answers that differ
entity {name}_bench is
  port (clk : in std_logic; rst : in std_logic; done : out std_logic; errors : out natural);
end entity {name}_bench;

architecture bench of {name}_bench is
  constant stimuli : words(0 to {last}) := read_words("{module}_in.memh", {n});
  constant expected : words(0 to {last}) := read_words("{module}_expected.memh", {n});
{declared}
  signal word : std_logic_vector(127 downto 0);
  signal fed, seen, round, wrong : natural := 0;
  signal noise : std_logic_vector(31 downto 0) := x"2545f491";
  signal feeding, taking : std_logic := '1';
begin
  word <= stimuli(fed) when fed < {n} else stimuli(0);
{fields}
  in_valid <= '1' when rst = '0' and {loaded} and fed < {n} and feeding = '1' else '0';
  out_ready <= taking;
  done <= '1' when round = 2 else '0';
  errors <= wrong;
  dut : entity work.{name} port map ({connections});
  process (clk)
    file found : text open write_mode is "{module}_out.txt";
    variable row : line;
    variable taken : natural;
  begin
    if rising_edge(clk) and rst = '0' then
      noise <= noise(30 downto 0) & (noise(31) xor noise(21) xor noise(1) xor noise(0));
      taken := fed;
      if in_valid = '1' and in_ready = '1' then
        taken := fed + 1;
      end if;
      -- a word that was offered stays until it is taken
      feeding <= '1' when round = 0 or (in_valid = '1' and in_ready = '0') else noise(3);
      taking <= '1' when round = 0 else noise(7);
      if out_valid = '1' and out_ready = '1' then
        if round = 0 then
          hwrite(row, out_data);
          writeline(found, row);
        end if;
        if seen > {last} or out_data /= expected(seen)({out} downto 0) then
          wrong <= wrong + 1;
        end if;
        seen <= seen + 1;
        if seen = {last} then
          round <= round + 1;
          seen <= 0;
          taken := 0 when round = 0 else taken;
        end if;
      end if;
      fed <= taken;
    end if;
  end process;
end architecture bench;
"""


def package() -> str:
    return _PACKAGE


def bench(name: str, stream: Stream) -> str:
    """The bench of the entity `name`."""
    ports, n = stream.ports, stream.words.size
    declared = [
        f"  signal {port} : {port_kind(port, width)};"
        for _, port, width, _ in ports.named()
        if port not in ("clk", "rst")
    ]
    fields = [f"  in_data <= word({ports.in_bits - 1} downto 0);"]
    if ports.select_bits:
        fields.append(f"  in_select <= word({ports.in_bits + ports.select_bits - 1} downto {ports.in_bits});")
    loaded = "true"
    if stream.load is not None:
        (address, width), m = ports.load, stream.load.shape[0]
        loaded = f"written = {m}"
        declared += [
            f'  constant images : words(0 to {m - 1}) := read_words("{stream.module}_load.memh", {m});',
            "  signal image : std_logic_vector(127 downto 0);",
            "  signal written : natural := 0;",
        ]
        fields += [
            f"  image <= images(written) when written < {m} else images(0);",
            f"  load_valid <= '1' when rst = '0' and written < {m} else '0';",
            f"  load_address <= image({address + width - 1} downto {width});",
            f"  load_data <= image({width - 1} downto 0);",
            f"  written <= written + 1 when rising_edge(clk) and rst = '0' and written < {m};",
        ]
    return _BENCH.format(
        name=name,
        module=stream.module,
        n=n,
        last=n - 1,
        out=ports.out_bits - 1,
        declared="\n".join(declared),
        fields="\n".join(fields),
        loaded=loaded,
        connections=", ".join(f"{port} => {port}" for _, port, _, _ in ports.named()),
    )


def top(name: str, entities: Sequence[str], streams: Sequence[Stream]) -> str:
    """NAME_tb: clock, reset, all benches, the verdict, and an end where an answer never comes."""
    total = sum(stream.words.size for stream in streams)
    limit = 40 * max(stream.words.size for stream in streams) + 100000
    count = len(entities)
    instances = [
        f"  bench_{i} : entity work.{one}_bench\n"
        f"    port map (clk => clk, rst => rst, done => done({i}), errors => wrong({i}));"
        for i, one in enumerate(entities)
    ]
    return f"""\
library ieee;
use ieee.std_logic_1164.all;
use std.env.all;
use std.textio.all;

entity {name}_tb is
end entity {name}_tb;

architecture bench of {name}_tb is
  type counts is array (0 to {count - 1}) of natural;
  signal clk : std_logic := '0';
  signal rst : std_logic := '1';
  signal done : std_logic_vector(0 to {count - 1});
  signal wrong : counts;
begin
{chr(10).join(instances)}
  clk <= not clk after 5 ns;
  rst <= '0' after 42 ns;
  process (clk)
    variable cycles, sum : natural := 0;
    variable row : line;
  begin
    if rising_edge(clk) and rst = '0' then
      cycles := cycles + 1;
      if (and done) = '1' or cycles > {limit} then
        sum := 0;
        for i in wrong'range loop
          sum := sum + wrong(i);
        end loop;
        if (and done) /= '1' then
          write(row, string'("FAIL no answer"));
        elsif sum = 0 then
          write(row, string'("PASS {total} words twice"));
        else
          write(row, string'("FAIL ") & integer'image(sum) & string'(" answers differ"));
        end if;
        writeline(output, row);
        finish;
      end if;
    end if;
  end process;
end architecture bench;
"""
