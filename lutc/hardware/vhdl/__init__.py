"""Units of lines over codes and their benches in VHDL-2008, as GHDL analyses and runs it."""
