# Installation: program, library, headers, models, examples, pkg-config file, CMake package, manual
# page, completion, systemd's unit. Nothing installed knows its prefix: a tree may be staged (DESTDIR) and moved.
# Components, which are Debian packages (Package.cmake): program (the default), dev.
set(CMAKE_INSTALL_DEFAULT_COMPONENT_NAME program)
install(TARGETS apus_shared EXPORT apusTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} NAMELINK_COMPONENT dev
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS apus_static EXPORT apusTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dev
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/apus DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev
        FILES_MATCHING PATTERN "*.h")
install(DIRECTORY models/ DESTINATION ${CMAKE_INSTALL_DATADIR}/apus/models
        FILES_MATCHING PATTERN "*.json" PATTERN "*.jinja" PATTERN "*.safetensors")
install(FILES docs/man/apus.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES cli/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
        RENAME apus)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} RENAME copyright)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libapus-dev RENAME copyright COMPONENT dev)
install(FILES README.md CHANGELOG.md SECURITY.md docs/server.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DOCDIR})

# ---- the service; its settings belong to who runs it, so that only a package puts them where they act
if(TARGET ap_server)
  install(FILES server/service/apus.service DESTINATION lib/systemd/system)
  install(FILES server/service/apus.default DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples/serve)
  install(CODE "if(CMAKE_INSTALL_PREFIX MATCHES \"^/usr/*\$\")
    file(INSTALL \"${CMAKE_SOURCE_DIR}/server/service/apus.default\" DESTINATION /etc/default RENAME apus)
  endif()")
endif()

# ---- CMake package: apus::apus (shared) and apus::static
include(CMakePackageConfigHelpers)
set_target_properties(apus_shared PROPERTIES EXPORT_NAME apus)
set_target_properties(apus_static PROPERTIES EXPORT_NAME static)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/apus)
install(EXPORT apusTargets NAMESPACE apus:: DESTINATION ${package_dir} COMPONENT dev)
configure_package_config_file(cmake/apusConfig.cmake.in apusConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
if(PROJECT_VERSION_MAJOR EQUAL 0)
  write_basic_package_version_file(apusConfigVersion.cmake COMPATIBILITY SameMinorVersion)
else()
  write_basic_package_version_file(apusConfigVersion.cmake COMPATIBILITY SameMajorVersion)
endif()
install(FILES ${CMAKE_BINARY_DIR}/apusConfig.cmake ${CMAKE_BINARY_DIR}/apusConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT dev)

# ---- pkg-config. The libraries stand in Libs.private by name, not as Requires.private, which would
# hand their own flags to whoever compiles with apus.
set(pc_private "")
foreach(dir ${library_dirs})
  string(APPEND pc_private "-L${dir} ")
endforeach()
foreach(lib ${static_libraries})
  string(APPEND pc_private "-l${lib} ")
endforeach()
string(APPEND pc_private "-lpthread -lm")
file(RELATIVE_PATH pc_prefix /p/${CMAKE_INSTALL_LIBDIR}/pkgconfig /p)
string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
configure_file(cmake/apus.pc.in apus.pc @ONLY)
configure_file(cmake/apus-static.pc.in apus-static.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/apus.pc ${CMAKE_BINARY_DIR}/apus-static.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dev)

# ---- The loader must find the library: ldconfig where it looks, else a path in whoever links it.
install(CODE "set(libdir \"${CMAKE_INSTALL_LIBDIR}\")\nset(so_name \"libapus.so.${abi_version}\")"
        COMPONENT dev)
install(SCRIPT cmake/LetLoaderFind.cmake COMPONENT dev)
