"""What cannot be predicted is named with its reason, and what can be is answered all the same."""

import json

import av
import numpy as np
import pytest
import soundfile

import mmkd
from mmkd.inference.sampling import sampling_of
from mmkd.inference.videos import predict_windows
from mmkd.media import video as media_video
from mmkd.media.video import open_container
from tests.test_inference import packed, small_model
from tests.videos import RATE, click, write_video


def empty_video(path):
    """A file that has a video stream and no frame in it."""
    with av.open(str(path), "w", container_options={"movflags": "empty_moov"}) as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    return path


def with_damage(path, frames, start, stop):
    """A video at 10 frames/s in which every packet from one second to another is overwritten."""
    write_video(path, frames, size=(96, 64), gop=10, options={"bf": "0", "sc_threshold": "0"})
    data = bytearray(path.read_bytes())
    with open_container(path) as container:
        spans = [(float(p.pts * p.time_base), p.pos, p.size) for p in container.demux(video=0) if p.size]
    for seconds, position, size in spans:
        if start <= seconds < stop:
            data[position : position + size] = bytes(size)
    path.write_bytes(bytes(data))
    return path


def truncated(path, frames, share):
    """A video at 10 frames/s whose end is missing, though its header is there."""
    whole = write_video(path, frames, gop=5, options={"bf": "0", "sc_threshold": "0"}).read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    return path


def test_what_is_no_video_is_said(tmp_path):
    model = small_model()
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    soundfile.write(tmp_path / "sound.wav", click(1, 0.5), RATE)
    empty_video(tmp_path / "frameless.mp4")
    for name, reason in (
        ("none.mp4", "none.mp4 cannot be opened: No such file"),
        ("text.mp4", "text.mp4 cannot be opened: Invalid data"),
        ("empty.mp4", "empty.mp4 cannot be opened: it is empty"),
        ("folder.mp4", "folder.mp4 cannot be opened: Is a directory"),
        ("sound.wav", "sound.wav has no video stream"),
        ("frameless.mp4", "frameless.mp4 has no frames"),
    ):
        with pytest.raises(ValueError, match=reason):
            mmkd.predict(model, tmp_path / name)


def test_damage_in_the_middle_costs_the_windows_that_show_it(tmp_path):
    model, path = small_model(), with_damage(tmp_path / "hurt.mp4", 90, 4.0, 5.0)
    said = mmkd.predict(model, path, window=1.0)
    assert [each.start for each in said] == pytest.approx(range(9))
    assert [bool(each.error) for each in said] == [False] * 4 + [True] + [False] * 4
    assert "hurt.mp4 cannot be decoded at 4." in said[4].error and not said[4].logits and not said[4].top()
    sound = mmkd.predict(model, write_video(tmp_path / "sound.mp4", 90, size=(96, 64), gop=10), window=1.0)
    assert np.allclose(said[7].logits["verb"], sound[7].logits["verb"], atol=0.02)
    # As one clip the video can be answered where its view shows none of the damage, and only there.
    (whole,) = mmkd.predict(model, path)
    assert whole.stop == pytest.approx(9.0)
    with pytest.raises(ValueError, match=r"hurt\.mp4 cannot be decoded at 4\."):
        mmkd.predict(model, path, views="10x1")


def test_a_truncated_video_is_answered_up_to_where_it_ends(tmp_path):
    model, path = small_model(), truncated(tmp_path / "cut.mkv", 100, 0.5)
    *answered, lost = predict_windows(model, path, sampling_of(model.spec), 1.0, 0.0)
    assert "cut.mkv ends at " in lost.error and "should be 10.00 s long: is it truncated?" in lost.error
    assert 3 < lost.start < 7 and lost.stop == pytest.approx(10.0, abs=0.01)
    assert len(answered) > 3 and not any(each.error for each in answered[:-1])
    assert answered[-1].stop == pytest.approx(lost.start)
    with pytest.raises(ValueError, match=r"is it truncated\? Windows answer for what is there"):
        mmkd.predict(model, path)


def test_a_video_that_cannot_be_decoded_from_somewhere_on_is_named_from_there(tmp_path, monkeypatch):
    model, path = small_model(), write_video(tmp_path / "short.mp4", 60)
    monkeypatch.setattr("mmkd.inference.windows.count_frames", lambda *_: (100, 10.0))
    said = mmkd.predict(model, path, window=1.0)
    assert [each.start for each in said] == pytest.approx(range(7))
    assert [each.error for each in said[:6]] == [""] * 6
    assert "decoding ends before 10.00 s" in said[6].error and said[6].stop == pytest.approx(10.0)


def test_time_stamps_that_leap_are_refused_from_there_on(tmp_path):
    model = small_model()
    leap = write_video(tmp_path / "leap.mkv", 24, times=[*(n / 10 for n in range(23)), 50_000.0], options={"bf": "0"})
    *answered, lost = mmkd.predict(model, leap, window=1.0)
    assert len(answered) == 2 and "shows one frame for 49998 s from 2.20 s on" in lost.error
    far = write_video(tmp_path / "far.mkv", 3, times=[0.0, 0.1, 900_000.0], options={"bf": "0"})
    with pytest.raises(ValueError, match=r"far\.mkv has 3 frames in 900000 s: are its time stamps wrong"):
        mmkd.predict(model, far, window=1.0)


def test_frames_of_absurd_size_are_refused(tmp_path, monkeypatch):
    model, path = small_model(), write_video(tmp_path / "large.mp4", 3, size=(320, 240))
    assert not mmkd.predict(model, path)[0].error
    # Of some codecs FFmpeg tells the size before it refuses a frame, of others it does not.
    plain = write_video(tmp_path / "plain.mkv", 3, size=(320, 240), codec="ffv1")
    monkeypatch.setattr(media_video, "MAX_PIXELS", 100 * 100)
    for window in (0.0, 0.1):
        with pytest.raises(ValueError, match=r"large\.mp4 claims frames of 320 x 240"):
            mmkd.predict(model, path, window=window)
        with pytest.raises(ValueError, match=r"not one frame of plain\.mkv can .* have more than 10000 pixels"):
            mmkd.predict(model, plain, window=window)


def test_a_video_whose_frames_change_size_is_answered_before_and_after(tmp_path):
    plain = {"options": {"bf": "0"}}
    small = write_video(tmp_path / "small.ts", 20, **plain)
    large = write_video(tmp_path / "large.ts", 20, size=(96, 64), times=[2.0 + n / 10 for n in range(20)], **plain)
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    said = mmkd.predict(small_model(), both, window=1.0, hop=0.5)
    assert [each.start for each in said] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3])
    assert [each.error for each in said if each.start != 1.5] == [""] * 6
    assert said[3].error == "its frames are of different sizes, 64 x 48 and 96 x 64"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "model.json cannot be used: it has format 2; this mmkd reads up to 1: update mmkd"),
        (
            {"weights_hash": "0123456789abcdef"},
            "model.safetensors has the hash .*, and model.json names 0123456789abcdef",
        ),
        ({"input": {"frames": 4}}, "does not say what it sees: `input` of its model.json lacks size"),
        ({"input": {}}, "lacks frames and size"),
        ({"input": {"frames": 0, "size": 16}}, "model.json of .* cannot be used: frames: .*greater than 0"),
        (
            {"training": packed() | {"data": {"made_by": {"pack": {"fps": -1.0}}}}},
            "cannot be used: fps: .*greater than",
        ),
        ({"temperatures": {"verb": 0}}, "the temperature of verb is 0, no number above 0"),
        ({"temperatures": {"verb": float("inf")}}, "the temperature of verb is inf"),
        ({"temperatures": {"action": 1.0}}, "temperatures are no table of its heads"),
        ({"temperatures": [1.0]}, "temperatures are no table of its heads"),
    ],
)
def test_a_model_folder_that_cannot_be_used_is_refused(tmp_path, changes, said):
    small_model(tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=said):
        mmkd.predict(tmp_path / "model", tmp_path / "not-looked-at.mp4")


def test_weights_that_were_changed_after_they_were_saved_are_named_with_both_hashes(tmp_path):
    small_model(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # one bit of the last weight
    path.write_bytes(bytes(data))
    named = json.loads((tmp_path / "model" / "model.json").read_text())["weights_hash"]
    with pytest.raises(ValueError, match=rf"model\.safetensors has the hash \w+, and model\.json names {named}"):
        mmkd.predict(tmp_path / "model", tmp_path / "not-looked-at.mp4")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is not a model folder"):
        mmkd.predict(tmp_path / "model", tmp_path / "not-looked-at.mp4")


@pytest.mark.parametrize("modality", ["flow", "boxes"])
def test_a_model_that_sees_no_rgb_is_refused_and_the_job_for_it_named(home, modality):
    with pytest.raises(ValueError, match=rf"{modality} sees {modality}, .*python rayjobs/evaluate\.py --model"):
        mmkd.predict(home / "models" / modality, "not-looked-at.mp4")


def test_temperatures_are_kept_with_a_model_and_folders_without_have_none(tmp_path):
    small_model(tmp_path / "model", temperatures={"verb": 1.5})
    assert mmkd.load_model(tmp_path / "model").spec.temperatures == {"verb": 1.5}
    path = tmp_path / "model" / "model.json"
    described = json.loads(path.read_text())
    del described["temperatures"]  # as in older folders
    path.write_text(json.dumps(described))
    older = mmkd.load_model(tmp_path / "model")
    older.spec.temperatures["verb"] = 3.0
    assert mmkd.load_model(tmp_path / "model").spec.temperatures == {}
