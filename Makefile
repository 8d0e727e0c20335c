# The two commands of a newcomer. Both install what is missing (root or sudo; otherwise they print
# the exact command), build, and then:
#   make demo    hold a first conversation with the built-in tiny model
#   make check   run every test
BUILD ?= build
JOBS  ?= $(shell nproc)

.PHONY: all demo check deps build install clean format lint
all: build

deps:
	@scripts/install-dependencies build

build: deps
	@test -f $(BUILD)/build.ninja || cmake --preset release -B $(BUILD) >/dev/null
	@cmake --build $(BUILD) -j $(JOBS) --target apus_cli

demo: build
	@scripts/demo $(BUILD)/apus

check:
	@scripts/install-dependencies check
	@scripts/check

install: build
	cmake --install $(BUILD)

format:
	clang-format -i $$(git ls-files '*.c' '*.h')

lint:
	cmake --preset release -B $(BUILD) >/dev/null
	clang-tidy -p $(BUILD) --quiet $$(git ls-files 'src/*.c' 'cli/*.c' | grep -v /arm/)

clean:
	rm -rf build build-*
