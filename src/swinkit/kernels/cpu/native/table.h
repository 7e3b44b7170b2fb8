// The table of one instruction set and element type.
#pragma once
#include "block.h"
#include "layer_norm.h"
#include "linear.h"
#include "map_gradients.h"
#include "maps.h"

namespace {

using CopyAttended = decltype(swk::Kernels::copy_attended);
using CopyHidden = decltype(swk::Kernels::copy_hidden);

// T: of attention, patch embedding and classifier. Q: what the linear layers of blocks and merging take.
template <class T, class Q = T>
constexpr swk::Kernels table_of(CopyAttended copy_attended = nullptr, CopyHidden copy_hidden = nullptr) {
    return {sizeof(T),   sizeof(Q),  block_scratch<T>, gather,   enter<Q>,    attend<T, Q>, copy_attended,   project<Q>, between<Q>,
            expand<Q>,   copy_hidden, contract<Q>, leave,           rows_scratch<T>, embed<T>, merge<Q>,  features,        pool<T>,    classify<T>,
            map_scratch<T>, map_forward<T>, map_backward<T>,
            linear_scratch<T>, pack_outputs<T>, pack_inputs<T>, linear_rows<T>, linear_pack<T>, linear_input_grad<T>, linear_weight_grad<T>,
            norm_rows<T>, norm_rows_back<T>, multiply_panel<Q>};
}

}  // namespace
