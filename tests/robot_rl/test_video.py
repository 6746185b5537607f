import cv2
import numpy as np
import pytest

from robot_rl.errors import ConfigError, ShapeError, StoreError
from robot_rl.video import VideoWriter, contact_sheet, grid, write_video

RED, GREEN, BLUE = (200, 30, 30), (30, 180, 30), (30, 30, 200)


def plain(colour, frames=1, height=48, width=64):
    return np.full((frames, height, width, 3), colour, np.uint8)


def decode(path):
    """Decode with OpenCV's own FFmpeg; RGB."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return np.array(frames), capture


def test_another_decoder_sees_the_same_frames(tmp_path):
    frames = np.concatenate([plain(RED, 5), plain(GREEN, 5), plain(BLUE, 5)])
    path = write_video(tmp_path / "deep" / "video.mp4", frames, fps=20)
    decoded, capture = decode(path)
    assert decoded.shape == frames.shape
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(20)
    assert int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little") in {b"h264", b"avc1"}
    np.testing.assert_allclose(decoded.astype(int), frames.astype(int), atol=8)


def test_odd_sizes_are_padded_to_even_ones(tmp_path):
    path = write_video(tmp_path / "odd.mp4", plain(RED, 3, 33, 35), fps=10.5)
    assert decode(path)[0].shape == (3, 34, 36, 3)


def test_the_file_has_its_name_only_when_complete(tmp_path):
    path = tmp_path / "video.mp4"
    with VideoWriter(path, fps=10) as writer:
        writer.append(plain(RED)[0])
        assert not path.exists()
    writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_frames_before_an_error_are_kept(tmp_path):
    def record():
        with VideoWriter(tmp_path / "video.mp4", fps=10) as writer:
            writer.append(plain(RED)[0])
            raise KeyError("a fault in the loop")

    with pytest.raises(KeyError):
        record()
    assert len(decode(tmp_path / "video.mp4")[0]) == 1


def test_what_cannot_be_a_video_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="mp4"):
        VideoWriter(tmp_path / "video.avi", fps=10)
    with pytest.raises(ConfigError, match="fps"):
        VideoWriter(tmp_path / "video.mp4", fps=0)
    with pytest.raises(ShapeError, match="no frames"):
        write_video(tmp_path / "video.mp4", [], fps=10)
    with pytest.raises(ShapeError, match=r"float64 of shape \(4, 4, 3\)"):
        write_video(tmp_path / "video.mp4", np.zeros((1, 4, 4, 3)), fps=10)
    with pytest.raises(ShapeError, match="first one"):
        write_video(tmp_path / "video.mp4", [plain(RED)[0], plain(RED, height=50)[0]], fps=10)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        VideoWriter(tmp_path / "file" / "video.mp4", fps=10)


def test_grid_places_tiles_and_holds_the_shorter_ones_last_frame():
    short = np.concatenate([plain(RED, 2), plain(GREEN, 1)])
    tiled = grid([short, plain(BLUE, 6), plain(RED, 4)], 2, [True, None, False], hold_frames=2, gap_px=4)
    assert tiled.shape == (8, 2 * 52 + 4, 2 * 68 + 4, 3)
    first, second, third = (slice(4, 52), slice(4, 68)), (slice(4, 52), slice(72, 136)), (slice(56, 104), slice(4, 68))
    centre = (24, 32)
    assert [tuple(frame[first][centre]) for frame in tiled] == [RED] * 2 + [GREEN] * 6
    assert all(tuple(frame[third][centre]) == RED for frame in tiled)
    np.testing.assert_array_equal(tiled[0][first], short[0])
    np.testing.assert_array_equal(tiled[(slice(None), *second)], plain(BLUE, 8))


def test_grid_border_appears_at_the_end_green_for_success_and_red_for_failure():
    tiled = grid([plain(BLUE, 3), plain(BLUE, 3)], 2, [True, False], hold_frames=0, gap_px=0)
    np.testing.assert_array_equal(tiled[1], plain(BLUE, 1, 48, 128)[0])
    success, failure = tiled[2][0, 0].astype(int), tiled[2][0, 64].astype(int)
    assert success.argmax() == 1
    assert failure.argmax() == 0
    assert tuple(tiled[2][24, 32]) == BLUE


def test_contact_sheet_shows_first_and_last_frame_of_every_episode(tmp_path):
    episode = np.concatenate([plain(RED, 1), plain(BLUE, 8), plain(GREEN, 1)])
    path = contact_sheet([episode, episode], tmp_path / "sheet.png", [True, None], frames_per_episode=3)
    sheet = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert sheet.shape == (2 * (18 + 48 + 4) + 4, 3 * 68 + 4, 3)
    row = sheet[70 + 18 + 24]
    assert [tuple(row[x]) for x in (4 + 32, 72 + 32, 140 + 32)] == [RED, BLUE, GREEN]


def test_contact_sheet_of_an_episode_shorter_than_its_row(tmp_path):
    path = contact_sheet([plain(RED, 1)], tmp_path / "sheet.png", captions=["one"])
    assert cv2.imread(str(path)).shape[1] == 6 * 68 + 4


def test_what_cannot_be_tiled_is_refused(tmp_path):
    with pytest.raises(ShapeError, match="no episodes"):
        grid([], 2)
    with pytest.raises(ShapeError, match=r"videos\[1\]"):
        grid([plain(RED), plain(RED, width=32)], 2)
    with pytest.raises(ShapeError, match="2 successes for 1"):
        grid([plain(RED)], 2, [True, True])
    with pytest.raises(ConfigError, match="columns"):
        grid([plain(RED)], 0)
    with pytest.raises(ConfigError, match="png"):
        contact_sheet([plain(RED)], tmp_path / "sheet.jpg")
