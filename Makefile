# Short names for what ./setup does; a machine without make runs that directly.
#   make demo         install what is missing, build, hold a first conversation
#   make check        ... and run every test
#   make check-all    ... and sanitizers, clang, aarch64, emulated processor levels, format
#   make install      PREFIX (default: /usr/local for root, else ~/.local) and DESTDIR as usual
#   make package      Debian packages
export BUILD JOBS PREFIX DESTDIR

.PHONY: build demo check check-all install package clean format lint
build demo check check-all install package:
	@./setup $@

format:
	clang-format -i $$(git ls-files '*.c' '*.h' '*.cu' '*.cuh')

lint:
	cmake --preset release -B build >/dev/null
	clang-tidy -p build --quiet $$(git ls-files 'src/*.c' 'cli/*.c' | grep -v /arm/)

clean:
	rm -rf build build-*
