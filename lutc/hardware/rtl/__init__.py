"""Units and test benches in SystemVerilog, generated from tables: what Verilator lints, Icarus and Yosys read."""
