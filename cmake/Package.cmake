# Debian packages (`cpack -G DEB`, `./setup package`): apus, with program, shared library, models and
# service, and libapus-dev. Configured with -DCMAKE_INSTALL_PREFIX=/usr, for the library's folder.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME apus)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "inference engine for Gemma 4 and Qwen 3.5")
set(CPACK_PACKAGE_CONTACT "apus <apus@localhost>" CACHE STRING "Maintainer field of packages")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_SET_DESTDIR ON) # cmake/LetLoaderFind.cmake asks where files will lie
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL program dev)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ
    GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)

set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME apus)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS "libsndfile1")
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SUGGESTS "bash-completion, haproxy | nginx")
set(CPACK_DEBIAN_PROGRAM_DESCRIPTION
"Runs language models on this machine: conversations and single answers in a
terminal, and a server with the APIs of OpenAI, Anthropic and Ollama and a
page to chat on. The same prompt gives the same bits on every processor.

The service apus.service is not enabled by the installation; until a model is
named in /etc/default/apus it serves a tiny one that comes along.")
set(debian ${CMAKE_CURRENT_LIST_DIR}/debian)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_CONTROL_EXTRA
    "${debian}/postinst;${debian}/prerm;${debian}/postrm;${debian}/conffiles;${debian}/triggers")

set(CPACK_DEBIAN_DEV_PACKAGE_NAME libapus-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS "apus (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})")
set(CPACK_DEBIAN_DEV_PACKAGE_SUGGESTS # for who links the static library
    "libyajl-dev, libpcre2-dev, libutf8proc-dev, libxxhash-dev, libjpeg62-turbo-dev, libpng-dev, libwebp-dev, libgif-dev, liburing-dev")
set(CPACK_DEBIAN_DEV_DESCRIPTION
"Headers, static library, pkg-config files and CMake package for programs that
run language models with apus.")
include(CPack)
