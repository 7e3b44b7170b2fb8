// A network's run: every thread goes through the same steps, takes tiles as they come, and waits for the others after each step.
#include "run.h"

#include <algorithm>
#include <atomic>

#include "flush.h"
#include "plan.h"
#include "team.h"

namespace swk {
namespace {

using Counter = std::atomic<long>;

class Run {
  public:
    Run(const swk_net &net, const swk_job &job) : net(net), job(job), kernels(*net.kernels), needs(needs_of(net, job)) {
        Arena measured;
        lay_out(measured);
        scratch = net.spares.take(measured.used);
        Arena arena{scratch.as<char>()};
        lay_out(arena);
        for (int i = 0; i < needs.loops; i++) new (counters + i) Counter(0);
    }
    ~Run() { net.spares.give(std::move(scratch)); }

    const swk_net &net;
    const swk_job &job;
    const Kernels &kernels;
    const Needs needs;
    float *maps[2];
    char *shared, *own;  // `own`: needs.thread bytes for each thread
    Counter *counters;
    Barrier barrier;

  private:
    void lay_out(Arena &arena) {
        counters = arena.take<Counter>(needs.loops);
        for (float *&map : maps) map = arena.take<float>(needs.map / sizeof(float));
        shared = arena.take<char>(needs.shared);
        own = arena.take<char>(stride() * job.threads);
    }

  public:
    // Each thread's scratch starts on a page of its own.
    size_t stride() const { return ceil_div<size_t>(needs.thread, 4096) * 4096 + 2 * ALIGNMENT; }

  private:
    Buffer scratch;
};

// One thread on its way through a run.
class Thread {
  public:
    Thread(Run &run, int index, int threads)
        : run_(run), k_(run.kernels), job_(run.job), threads_(threads), scratch_(run.own + index * run.stride()), map_(run.maps[0]), other_(run.maps[1]) {}

    void go() {
        grid_ = first_grid(run_.net, job_);
        share_rows(grid_.tokens(), [&](long first, int rows) { k_.embed(run_.net.embed, job_, grid_, first, rows, map_, scratch_); });
        const int *shift = job_.shifts;
        for (size_t s = 0; s < run_.net.stages.size(); s++) {
            const Stage &stage = run_.net.stages[s];
            for (const Block &block : stage.blocks) {
                const Plan plan = plan_block(block, grid_, shift, job_.threads);
                plan.shared ? together(block, plan) : apart(block, plan);
                shift += 2;
            }
            if (job_.maps && job_.maps[s]) copy_map(stage.blocks.front().channels, job_.maps[s]);
            for (const Merge &merge : stage.merge) this->merge(merge);
        }
        for (const Head &head : run_.net.head) finish(head);
    }

  private:
    // each(i) for i in [0, count), whichever thread comes first.
    template <class Each> void share(long count, Each each) {
        Counter &next = run_.counters[loop_++];
        for (long i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) each(i);
        run_.barrier.wait(threads_);
    }
    template <class Each> void share_rows(long tokens, Each each) {
        const int rows = rows_at_once(tokens, job_.threads);
        share(ceil_div(tokens, (long)rows), [&](long i) { each(i * rows, (int)std::min<long>(rows, tokens - i * rows)); });
    }

    // Each thread takes a few windows at a time through the whole block. Windows do not overlap, so the map is changed in place.
    void apart(const Block &block, const Plan &plan) {
        Arena arena{scratch_};
        Tile tile = lay_out_tile(arena, block, k_, plan);
        char *attention = arena.base + arena.used;
        const int panels = panels_of(block.channels);
        share(ceil_div<long>(plan.windows.count, plan.per_tile), [&](long i) {
            const long first = i * plan.per_tile;
            k_.gather(block, plan.windows, first, (int)std::min<long>(plan.per_tile, plan.windows.count - first), map_, tile);
            k_.enter(block, tile, 0, tile.rows);
            k_.attend(block, tile, plan.windows, 0, block.heads.groups, attention);
            if (k_.copy_attended) k_.copy_attended(block, tile, 0, tile.rows);
            k_.project(block, tile, 0, panels);
            k_.between(block, tile, 0, tile.rows);
            for (int from = 0; from < block.hidden_panels; from += plan.hidden) {
                const int to = std::min(from + plan.hidden, block.hidden_panels);
                k_.expand(block, tile, from, from, to);
                if (k_.copy_hidden) k_.copy_hidden(tile, to - from, 0, tile.rows);
                k_.contract(block, tile, from, to, 0, panels);
            }
            if (block.version == 2) k_.leave(block, tile, 0, tile.rows);
        });
    }

    // Too few windows for the threads: one tile of all of them, and the threads share its rows, heads and panels.
    void together(const Block &block, const Plan &plan) {
        Arena arena{run_.shared}, own{scratch_};
        Tile tile = lay_out_tile(arena, block, k_, plan);
        // Every thread needs the list of rows; the first writes it, and the rest wait for it.
        share(1, [&](long) { k_.gather(block, plan.windows, 0, plan.per_tile, map_, tile); });
        tile.rows = tile.window[plan.per_tile - 1].first + tile.window[plan.per_tile - 1].real;
        tile.windows = plan.per_tile, tile.sharing = threads_;
        const int panels = panels_of(block.channels), hidden = block.hidden_panels;
        const int some = std::max(1, tile.rows / (4 * threads_)), chunks = ceil_div(tile.rows, some);
        const auto to = [&](long i) { return std::min((int)(i + 1) * some, tile.rows); };
        share(chunks, [&](long i) { k_.enter(block, tile, (int)i * some, to(i)); });
        share(block.heads.groups, [&](long i) { k_.attend(block, tile, plan.windows, (int)i, (int)i + 1, own.base); });
        if (k_.copy_attended) share(chunks, [&](long i) { k_.copy_attended(block, tile, (int)i * some, to(i)); });
        share(panels, [&](long i) { k_.project(block, tile, (int)i, (int)i + 1); });
        share(chunks, [&](long i) { k_.between(block, tile, (int)i * some, to(i)); });
        share(hidden, [&](long i) { k_.expand(block, tile, 0, (int)i, (int)i + 1); });
        if (k_.copy_hidden) share(chunks, [&](long i) { k_.copy_hidden(tile, hidden, (int)i * some, to(i)); });
        share(panels, [&](long i) { k_.contract(block, tile, 0, hidden, (int)i, (int)i + 1); });
        if (block.version == 2) share(chunks, [&](long i) { k_.leave(block, tile, (int)i * some, to(i)); });
    }

    void merge(const Merge &merge) {
        const Grid next = halved(grid_, merge.reduce.panels * PANEL);
        share_rows(next.tokens(), [&](long first, int rows) { k_.merge(merge, grid_, map_, first, rows, other_, scratch_); });
        std::swap(map_, other_);
        grid_ = next;
    }

    void copy_map(int channels, float *out) {
        share_rows(grid_.tokens(), [&](long first, int rows) {
            for (long t = first; t < first + rows; t++) std::memcpy(out + t * channels, map_ + t * grid_.stride, channels * sizeof(float));
        });
    }

    void finish(const Head &head) {
        if (job_.features)
            share_rows(grid_.tokens(), [&](long first, int rows) { k_.features(head, grid_, map_, first, rows, job_.features, scratch_); });
        if (!job_.pooled && !job_.logits) return;
        Arena arena{run_.shared};
        void *operand = job_.logits ? arena.take<char>((size_t)job_.batch * panels_of(head.channels) * PANEL * k_.element) : nullptr;
        share(job_.batch, [&](long i) { k_.pool(head, grid_, map_, (int)i, operand, job_.batch, job_.pooled, scratch_); });
        if (job_.logits)
            share(head.linear.panels, [&](long i) { k_.classify(head, operand, job_.batch, (int)i, job_.logits, scratch_); });
    }

    Run &run_;
    const Kernels &k_;
    const swk_job &job_;
    const int threads_;
    char *const scratch_;
    float *map_, *other_;
    Grid grid_{};
    int loop_ = 0;
};

}  // namespace

void run(const swk_net &net, const swk_job &job) {
    Run run(net, job);
    const auto work = [](void *run, int index, int threads) {
        FlushDenormals flush;
        Thread(*static_cast<Run *>(run), index, threads).go();
    };
    run_together(job.threads, work, &run);
}

}  // namespace swk
