// Which tiles of a matrix there are, and in which order they are worked on.
//
// Threads take the next tile from one counter, so that a slow core takes fewer. Two tiles in the
// same row of tiles add to the same numbers: they do so in the order of the list, whichever threads
// work on them. Results are the same bits whatever the timing and however many threads there are.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace ssgear {

class TileSchedule {
 public:
  // Symmetric: the upper triangle, where tile (i, j) also adds to the rows of block j. Neighbours
  // in the list have no block in common, as in a tournament where all play at the same time.
  TileSchedule(int64_t row_blocks, int64_t column_blocks, bool symmetric)
      : finished_(new std::atomic<int64_t>[row_blocks]), symmetric_(symmetric) {
    std::vector<int64_t> turns(row_blocks, 0);
    for (int64_t block = 0; block < row_blocks; ++block) {
      finished_[block] = 0;
    }
    for (const auto& [row, column] : order(row_blocks, column_blocks)) {
      const int64_t row_turn = turns[row]++;
      const bool mirrored = symmetric && row != column;
      steps_.push_back({row, column, row_turn, mirrored ? turns[column]++ : 0, mirrored});
    }
  }

  int64_t size() const {
    return static_cast<int64_t>(steps_.size());
  }

  // To be called by every thread. `make(row, column)` computes a tile, `add(row, column, mirrored)`
  // adds what follows from it to its rows, and to those of its columns if mirrored.
  template <typename Make, typename Add>
  void work(const Make& make, const Add& add) {
    try {
      for (int64_t number = next_++; number < size() && !failed_; number = next_++) {
        const Step& step = steps_[number];
        make(step.row, step.column);
        if (!wait(step.row, step.row_turn) ||
            (step.mirrored && !wait(step.column, step.column_turn))) {
          return;
        }
        add(step.row, step.column, step.mirrored);
        finished_[step.row].fetch_add(1, std::memory_order_release);
        if (step.mirrored) {
          finished_[step.column].fetch_add(1, std::memory_order_release);
        }
      }
    } catch (...) {
      failed_ = true;  // the others would wait for this tile for ever
      throw;
    }
  }

 private:
  struct Step {
    int64_t row, column, row_turn, column_turn;
    bool mirrored;
  };

  // Earlier steps have all been taken by a thread that is at work, so the wait ends.
  bool wait(int64_t block, int64_t turn) const {
    while (finished_[block].load(std::memory_order_acquire) != turn) {
      if (failed_) {
        return false;
      }
      std::this_thread::yield();
    }
    return true;
  }

  std::vector<std::pair<int64_t, int64_t>> order(int64_t row_blocks, int64_t column_blocks) const {
    std::vector<std::pair<int64_t, int64_t>> pairs;
    if (!symmetric_) {
      for (int64_t column = 0; column < column_blocks; ++column) {
        for (int64_t row = 0; row < row_blocks; ++row) {
          pairs.emplace_back(row, column);
        }
      }
      return pairs;
    }
    for (int64_t block = 0; block < row_blocks; ++block) {
      pairs.emplace_back(block, block);
    }
    // the circle method: one player stays, the others move on by one seat a round
    const int64_t seats = row_blocks + row_blocks % 2 - 1;
    for (int64_t round = 0; round < seats; ++round) {
      for (int64_t pair = 0; pair <= seats / 2; ++pair) {
        const int64_t one = (round + pair) % seats;
        const int64_t other = pair == 0 ? seats : (round - pair + seats) % seats;
        if (one < row_blocks && other < row_blocks) {
          pairs.emplace_back(std::min(one, other), std::max(one, other));
        }
      }
    }
    return pairs;
  }

  std::vector<Step> steps_;
  std::unique_ptr<std::atomic<int64_t>[]> finished_;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> failed_{false};
  bool symmetric_;
};

}  // namespace ssgear
