// LayerNorm of training: the C interface, and how threads share the rows.
#include <cstring>

#include "share.h"

namespace swk {
namespace {

constexpr long RUN = 128;  // rows at a time; what they add to the gradients of weight and bias is summed in the order of the runs

long runs_of(const swk_norm &job) { return (job.rows + RUN - 1) / RUN; }
int rows_of(const swk_norm &job, long run) { return (int)(job.rows - run * RUN < RUN ? job.rows - run * RUN : RUN); }

void forward(const Kernels &kernels, const swk_norm &job) {
    const Crew crew{job.threads, job.parallel};
    const Workspace space(crew.threads, 0, [](Arena &) {});
    share(crew, runs_of(job), space, [&](long run, char *) { kernels.norm_rows(job, run * RUN, rows_of(job, run)); });
}

void backward(const Kernels &kernels, const swk_norm &job) {
    const Crew crew{job.threads, job.parallel};
    const long runs = runs_of(job), width = 2L * job.channels;
    float *sums = nullptr;
    const Workspace space(crew.threads, 0, [&](Arena &arena) { sums = arena.take<float>(runs * width); });
    share(crew, runs, space, [&](long run, char *) { kernels.norm_rows_back(job, run * RUN, rows_of(job, run), sums + run * width); });
    for (long run = 1; run < runs; run++)
        for (long c = 0; c < width; c++) sums[c] += sums[run * width + c];
    std::memcpy(job.weight_grad, sums, sizeof(float) * job.channels);
    std::memcpy(job.bias_grad, sums + job.channels, sizeof(float) * job.channels);
}

bool fits(const swk_norm &job) { return job.rows > 0 && job.channels > 0 && job.channels % PANEL == 0 && job.threads > 0; }

}  // namespace
}  // namespace swk

int swk_norm_forward(int isa, int dtype, const swk_norm *job) { return swk::call(isa, dtype, *job, swk::fits(*job), swk::forward); }

int swk_norm_backward(int isa, int dtype, const swk_norm *job) { return swk::call(isa, dtype, *job, swk::fits(*job), swk::backward); }
