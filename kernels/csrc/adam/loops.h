// The loops over elements, in terms of the Lanes and Squares of the namespace that includes this file.
// Products and sums are rounded one by one (no fused ones), so that levels differ in no bit.

template <typename T>
int64_t step_whole_lanes(const AdamStep& step, int64_t first, int64_t last) {
  using Floats = Lanes::Floats;
  const Floats scale = Lanes::all(step.scale), first_share = Lanes::all(step.first_share);
  const Floats second_kept = Lanes::all(step.second_kept), second_share = Lanes::all(step.second_share);
  const Floats root_factor = Lanes::all(step.root_factor), epsilon = Lanes::all(step.epsilon);
  const Floats step_size = Lanes::all(step.step_size), decay = Lanes::all(step.decay);
  const Floats average_share = Lanes::all(step.average_share);
  const T* gradients = static_cast<const T*>(step.gradient);
  int64_t at = first;
  for (; at + Lanes::kWidth <= last; at += Lanes::kWidth) {
    const Floats gradient = Lanes::multiply(Lanes::load(gradients + at), scale);
    Floats mean = Lanes::load(step.exp_avg + at);
    mean = Lanes::add(mean, Lanes::multiply(first_share, Lanes::subtract(gradient, mean)));
    Lanes::store(step.exp_avg + at, mean);
    Floats square = Lanes::multiply(Lanes::load(step.exp_avg_sq + at), second_kept);
    square = Lanes::add(square, Lanes::multiply(second_share, Lanes::multiply(gradient, gradient)));
    Lanes::store(step.exp_avg_sq + at, square);
    const Floats root = Lanes::add(Lanes::multiply(Lanes::root(square), root_factor), epsilon);
    Floats weight = Lanes::load(step.weights + at);
    const Floats change = Lanes::multiply(step_size, Lanes::divide(mean, root));
    weight = Lanes::subtract(weight, Lanes::add(change, Lanes::multiply(decay, weight)));
    Lanes::store(step.weights + at, weight);
    if (step.out != nullptr) Lanes::store(step.out + at, weight);
    if (step.average != nullptr) {
      Floats average = Lanes::load(step.average + at);
      average = Lanes::add(average, Lanes::multiply(average_share, Lanes::subtract(weight, average)));
      Lanes::store(step.average + at, average);
    }
  }
  return at;
}

int64_t step_elements(const AdamStep& step, int64_t first, int64_t last) {
  return step.gradient_dtype == kBFloat16 ? step_whole_lanes<uint16_t>(step, first, last)
                                          : step_whole_lanes<float>(step, first, last);
}

template <typename T>
double square_sum(const T* values, int64_t count) {
  Squares squares;
  int64_t at = 0;
  for (; at + kSumLanes <= count; at += kSumLanes) squares.add(values + at);
  double lanes[kSumLanes];
  squares.read(lanes);
  for (int64_t lane = 0; at + lane < count; ++lane) {
    const double value = plain::Lanes::load(values + at + lane);
    lanes[lane] += value * value;
  }
  for (int width = kSumLanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  return lanes[0];
}

double square_sum(const void* values, int32_t dtype, int64_t from, int64_t to) {
  return dtype == kBFloat16 ? square_sum(static_cast<const uint16_t*>(values) + from, to - from)
                            : square_sum(static_cast<const float*>(values) + from, to - from);
}
