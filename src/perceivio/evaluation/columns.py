"""What figures are called, and what each of them is, in one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of the table: its name, its unit, digits behind the point, what it is."""

    name: str
    unit: str
    digits: int
    meaning: str


COLUMNS = {
    "video_psnr": Column(
        "picture PSNR", "dB", 2,
        "10 log10(1 / mean square error) of pixels in [0, 1], of each window, then averaged;"
        " higher is nearer, 100 at most",
    ),
    "video_ssim": Column(
        "SSIM", "", 3,
        "structural similarity of frames (Gaussian window of 11 pixels, sigma 1.5, K1 0.01,"
        " K2 0.03; mean of R, G, B); 1 is the same",
    ),
    "audio_psnr": Column(
        "sound PSNR", "dB", 2,
        "the same as for pixels, of samples in [-1, 1]; quiet sound scores high whatever is done"
        " to it, so see SNR",
    ),
    "audio_snr": Column(
        "SNR", "dB", 2,
        "10 log10(energy of the sound / energy of the error); silence has 0; windows without a"
        " signal are left out",
    ),
    "log_mel": Column(
        "log-mel", "dB", 2,
        "how far the sound's spectra (64 mel bands, 25 ms) are apart, on average; lower is nearer",
    ),
    "values": Column("values", "", 0, "numbers kept of a window"),
    "bits": Column(
        "bits", "", 0,
        "bits kept of a window, on average: of the model its latents, of codecs picture + sound",
    ),
}  # fmt: skip
CLASSES = {
    "top1": Column(
        "top-1 of windows", "", 3,
        "share of a file's windows whose class is the model's most probable, the label masked",
    ),
    "top5": Column(
        "top-5 of windows", "", 3,
        "share of a file's windows whose class is among the model's five most probable",
    ),
    "clip_top1": Column(
        "top-1 of files", "", 3,
        "the same of the probabilities averaged over a file's windows",
    ),
    "clip_top5": Column(
        "top-5 of files", "", 3,
        "the same of the probabilities averaged over a file's windows",
    ),
}  # fmt: skip
