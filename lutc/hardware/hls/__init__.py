"""Units as C++ for high-level synthesis, made of the templates of lutc_units.hpp."""
