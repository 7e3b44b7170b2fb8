// The table of one instruction set and element type.
#pragma once
#include "block.h"
#include "maps.h"

namespace {

template <class T>
constexpr swk::Kernels table_of = {
    ROWS,           sizeof(T),   block_scratch<T>, gather,    enter<T>, attend<T>, project<T>,  between<T>,        expand<T>,
    contract<T>,    leave,       rows_scratch<T>,  embed<T>,  merge<T>, features,  pool<T>,     classify<T>,       multiply_panel<T>,
};

}  // namespace
