"""The lecturer's voice: sentences to 16-bit mono sound with the exact time of each, and WebVTT made of those times.

The voice is espeak-ng's, from the espeakng-loader wheel. Where its library cannot be loaded the lecture is still made:
each sentence gets a soft tone and the time that reading it would take, and `Narration.spoken` is false.
"""

from __future__ import annotations

import array
import ctypes
import math
import re
import threading
import wave
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from demo.content import Lecture

SAMPLE_RATE: Final = 22_050
LEAD_S: Final = 1.2
SENTENCE_GAP_S: Final = 0.75
SCENE_GAP_S: Final = 1.9
TAIL_S: Final = 2.5

VOICE: Final = b"en-gb-x-rp"
WORDS_PER_MINUTE: Final = 128

# espeak-ng's speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS: Final = 2
_INITIALIZE_DONT_EXIT: Final = 0x8000
_CHARS_UTF8: Final = 1
_POSITION_CHARACTER: Final = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4

# Words that the voice would get wrong, as they sound.
_SOUNDS: Final = {
    r"\bPostgres\b": "Post-gress",
    r"\bRedis\b": "Reddis",
    r"\bids?\b": "I D",
    r"\bepoch\b": "ee-pock",
}


@dataclass(frozen=True)
class Sentence:
    """One caption cue: times in seconds from the start of the clip, `scene` and `beat` counted from 0."""

    scene: int
    beat: int
    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Narration:
    """Mono 16-bit samples at SAMPLE_RATE for the whole clip, and the sentences in them, in order."""

    sentences: tuple[Sentence, ...]
    samples: array.array[int]
    spoken: bool

    @property
    def length_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class Voice:
    """espeak-ng through ctypes. The library keeps one global state, hence one voice per process and a lock."""

    def __init__(self) -> None:
        """Raises OSError (or ImportError) where the library or its data cannot be had."""
        import espeakng_loader  # noqa: PLC0415  not there on every platform

        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 200, data, _INITIALIZE_DONT_EXIT)
        if rate != SAMPLE_RATE:
            raise OSError(f"espeak-ng speaks at {rate} Hz, not at {SAMPLE_RATE}")
        self._heard = bytearray()
        # Kept on self: ctypes does not keep a callback alive for the library.
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = prototype(self._hear)
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_SetVoiceByName(VOICE) != 0:
            raise OSError(f"espeak-ng has no voice {VOICE.decode()}")
        for parameter, value in ((_RATE, WORDS_PER_MINUTE), (_VOLUME, 85), (_PITCH, 42), (_RANGE, 55)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._lock = threading.Lock()

    def _hear(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._heard += ctypes.string_at(samples, count * 2)
        return 0

    def say(self, text: str) -> array.array[int]:
        """The samples of one sentence."""
        for pattern, sound in _SOUNDS.items():
            text = re.sub(pattern, sound, text)
        encoded = text.encode()
        with self._lock:
            self._heard.clear()
            self._library.espeak_Synth(encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
            self._library.espeak_Synchronize()
            return array.array("h", bytes(self._heard))


@lru_cache(maxsize=1)
def voice() -> Voice | None:
    """The process's voice, or None on a platform without it."""
    try:
        return Voice()
    except (ImportError, OSError, AttributeError):
        return None


def tone(text: str) -> array.array[int]:
    """The stand-in for a spoken sentence: a soft bell, then silence for as long as reading aloud would take."""
    length = int(SAMPLE_RATE * max(1.5, len(text.split()) * 60 / WORDS_PER_MINUTE))
    samples = array.array("h", bytes(2 * length))
    for index in range(min(length, SAMPLE_RATE)):
        at_s = index / SAMPLE_RATE
        swell = min(1.0, at_s / 0.02) * math.exp(-5 * at_s)
        samples[index] = int(5_000 * swell * math.sin(math.tau * 440 * at_s))
    return samples


def narrate(lecture: Lecture, speaker: Voice | None) -> Narration:
    """Every sentence of the lecture after the other, with the pauses of somebody who is not in a hurry."""
    say = speaker.say if speaker else tone
    samples = _silence(LEAD_S)
    sentences: list[Sentence] = []
    for scene_index, scene in enumerate(lecture.scenes):
        for beat, text in enumerate(scene.says):
            if sentences:
                samples.extend(_silence(SENTENCE_GAP_S if beat else SCENE_GAP_S))
            start_s = len(samples) / SAMPLE_RATE
            samples.extend(say(text))
            sentences.append(Sentence(scene_index, beat, text, start_s, len(samples) / SAMPLE_RATE))
    samples.extend(_silence(TAIL_S))
    return Narration(tuple(sentences), samples, spoken=speaker is not None)


def _silence(seconds: float) -> array.array[int]:
    return array.array("h", bytes(2 * int(seconds * SAMPLE_RATE)))


def write_wav(narration: Narration, path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(narration.samples.tobytes())


def webvtt(narration: Narration) -> str:
    """One cue a sentence. A cue stays until just before the next one, at most for a second of the pause."""
    ends = [min(this.end_s + 1.0, following.start_s - 0.04) for this, following in pairwise(narration.sentences)]
    ends.append(narration.sentences[-1].end_s + 1.0)
    cues = [
        f"{number}\n{_timestamp(sentence.start_s)} --> {_timestamp(end_s)}\n{_wrap(sentence.text)}\n"
        for number, (sentence, end_s) in enumerate(zip(narration.sentences, ends, strict=True), start=1)
    ]
    return "WEBVTT\n\n" + "\n".join(cues)


def _timestamp(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}.{rest % 1000:03}"


def _wrap(text: str, width: int = 56) -> str:
    """As few lines as `width` characters allow, of about the same length, as captions are set."""
    count = -(-len(text) // width)
    aim = len(text) / count
    lines: list[str] = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) / 2 > aim and len(lines) < count:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
