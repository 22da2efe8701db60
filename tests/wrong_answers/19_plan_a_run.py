def seconds_per_sample(operations, traffic, peak, bandwidth):
    "seconds per sample"
    return max(operations / peak, traffic / bandwidth)


def larger(operations, traffic, peak, bandwidth):
    "the larger of the two rates"
    return max(peak / operations, bandwidth / traffic)


def arithmetic_alone(operations, traffic, peak, bandwidth):
    "or the arithmetic alone"
    return peak / operations


def one_after_the_other(operations, traffic, peak, bandwidth):
    "longer of the two counts"
    return 1 / (operations / peak + traffic / bandwidth)


def whole_image(workers, failures, restart, seconds, together):
    "half an image is lost on average"
    hit = workers if together else 1
    return hit * failures * (restart + seconds) / (3600 * workers)


def image_forgotten(workers, failures, restart, seconds, together):
    "is lost, too"
    hit = workers if together else 1
    return hit * failures * restart / (3600 * workers)


def one_waits(workers, failures, restart, seconds, together):
    "You count one"
    return failures * (restart + seconds / 2) / (3600 * workers)


def one_hour_for_all(workers, failures, restart, seconds, together):
    "32 worker-hours"
    hit = workers if together else 1
    return hit * failures * (restart + seconds / 2) / 3600


def always_together(workers, failures, restart, seconds, together):
    "the other 31 go on"
    return failures * (restart + seconds / 2) / 3600
