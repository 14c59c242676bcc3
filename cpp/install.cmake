# For C++ users: headers, the static library and the CMake package raphson::raphson.
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/raphson)
install(TARGETS raphson_lib EXPORT raphson-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/raphson DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT raphson-targets NAMESPACE raphson:: DESTINATION ${package_dir})
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/raphson-config.cmake
  "include(CMakeFindDependencyMacro)\nfind_dependency(Threads)\n"
  "include(\"\${CMAKE_CURRENT_LIST_DIR}/raphson-targets.cmake\")\n")
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/raphson-config-version.cmake
  VERSION ${PROJECT_VERSION} COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/raphson-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/raphson-config-version.cmake
  DESTINATION ${package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/raphson)
install(DIRECTORY third_party/eigen/licenses DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/raphson/eigen)
install(FILES third_party/eigen/COPYRIGHT third_party/eigen/VERSION
  DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/raphson/eigen)
