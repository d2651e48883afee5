"""The demo courses: what is said, and which diagram is shown while it is said.

A lecture is a list of scenes, a scene a list of sentences. A sentence is a caption cue and a beat of the scene's
diagram (the first is beat 0), so that picture, voice and captions share one clock.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Scene:
    """One slide. `diagram` names a class of demo.diagrams; `shows` are the words it needs, as it reads them."""

    heading: str
    diagram: str
    says: tuple[str, ...]
    shows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lecture:
    """`name` is the clip's file name in the cache, so it stays when the title is reworded."""

    name: str
    title: str
    description: str
    scenes: tuple[Scene, ...]
    is_preview: bool = False


@dataclass(frozen=True)
class Course:
    title: str
    description: str
    lectures: tuple[Lecture, ...]


FOLD: Final = Lecture(
    name="fold",
    title="An actor is a fold over its stream",
    description="The one idea behind the live server: state is a checkpoint plus the entries after it.",
    is_preview=True,
    scenes=(
        Scene(
            "",
            "Title",
            (
                "Welcome. This picture is being played by the very system that it describes.",
                "While you watch, your player sends a small report every second: where you are, how much is buffered, "
                "and how fast the network is.",
                "This lecture is about what happens to those reports.",
            ),
        ),
        Scene(
            "A stream of reports",
            "Stream",
            (
                "Each report becomes an entry of a stream in Redis, and the entry's id is the player's frame number.",
                "So Redis itself refuses a frame that it already has, and no clock is needed to put them in order.",
                "At the far end of the stream waits an actor: a small object that holds the state of your session.",
            ),
        ),
        Scene(
            "Apply, one entry at a time",
            "Apply",
            (
                "The actor takes one entry after another, and applies it.",
                "Apply is a pure function: old state and entry in, new state out.",
                "It reads no clock, it asks no database, and it rolls no dice.",
                "Give it the same entries, and you get the same state, today and next year.",
            ),
        ),
        Scene(
            "State is a checkpoint, plus what came after",
            "Checkpoint",
            (
                "Once a second, the state is saved in Postgres, together with a cursor: "
                "the number of the last entry that it contains.",
                "We call that a checkpoint.",
                "So at any moment, the state is the last checkpoint, plus the entries after its cursor.",
            ),
        ),
        Scene(
            "A crash is a replay",
            "Replay",
            (
                "Now let the process die.",
                "Another one loads the checkpoint, reads the entries after the cursor, and applies them.",
                "It arrives at exactly the same state.",
            ),
        ),
        Scene(
            "What follows",
            "Points",
            (
                "A crash is a replay.",
                "A move to another process is a replay.",
                "A test is just a list of entries.",
                "Everything else in this course follows from that one idea: an actor is a fold over its stream.",
            ),
            (
                "A crash is a replay",
                "A move is a replay",
                "A test is a list of entries",
                "state = fold(apply, entries)",
            ),
        ),
    ),
)

FENCE: Final = Lecture(
    name="fence",
    title="The fence: epochs and zombies",
    description="How a session has one writer without leases, leaders or votes.",
    scenes=(
        Scene(
            "",
            "Title",
            (
                "In the last lecture, an actor moved from one process to another.",
                "But what if the first process was not dead at all?",
                "It may have been paused, or cut off from the network. "
                "Now it wakes up, and believes that it still owns your session.",
                "We call it a zombie, and this lecture is about keeping it from doing harm.",
            ),
        ),
        Scene(
            "Opening a socket is a claim",
            "Claim",
            (
                "The rule is simple: the actor follows the socket.",
                "Whichever process holds your player's socket, runs the actor.",
                "When a socket opens, its process claims the session.",
                "It adds one to a number in the session's row, the epoch, and the answer brings the saved state along.",
            ),
        ),
        Scene(
            "One statement",
            "Statement",
            (
                "Here is the whole claim.",
                "One update of one row: the epoch goes up, and the owner changes.",
                "What comes back is the new epoch, the state, and the cursor to replay from.",
                "Postgres puts two claims in order, because it changes a row once at a time. The newest socket wins.",
            ),
            (
                "UPDATE video_sessions",
                "   SET epoch = epoch + 1, owner = :me",
                " WHERE id = :session",
                "RETURNING epoch, state, last_seq",
                "ok:1 row, epoch 8",
            ),
        ),
        Scene(
            "What is missing",
            "Points",
            (
                "Notice what is missing.",
                "There is no lease that has to be renewed in time.",
                "There is no list of members that has to be agreed upon.",
                "And there is no coordinator, that could itself fail.",
            ),
            ("", "No lease to renew", "No membership to agree on", "No coordinator to lose"),
        ),
        Scene(
            "The fence",
            "Statement",
            (
                "Now the zombie wakes up, and tries to save what it has.",
                "Every checkpoint carries a condition: the epoch must still be mine.",
                "The zombie's epoch is seven. The row says eight. So nothing matches, and nothing is written.",
                "No row came back, and so the zombie knows what it is. It drops the actor, and it trims nothing.",
            ),
            (
                "UPDATE video_sessions",
                "   SET state = :state, last_seq = :seq",
                " WHERE id = :session",
                "   AND epoch = 7",
                "no:0 rows, the epoch is 8",
            ),
        ),
        Scene(
            "Closing with a reason",
            "Points",
            (
                "If a player is still connected to the zombie, that socket is closed, with a code that says why.",
                "Forty-four oh nine: another socket has taken over, so do not come back by yourself.",
                "Ten twelve: the session moved for another reason, so come back in a moment.",
                "Forty-four oh four: the session is gone.",
            ),
            ("", "4409   superseded by a newer socket", "1012   come back in a moment", "4404   no such session"),
        ),
        Scene(
            "In one sentence",
            "Claim",
            (
                "A process may be slow, or paused, or wrong about the world.",
                "As long as it has to show its epoch, an older owner can never overwrite a newer state.",
            ),
            ("after",),
        ),
    ),
)

ACKNOWLEDGE: Final = Lecture(
    name="acknowledge",
    title="Two-step acknowledgement",
    description="When a player may forget what it has sent, and why it is told so twice.",
    scenes=(
        Scene(
            "",
            "Title",
            (
                "When may a player forget what it has sent?",
                "If it forgets too early, a failure loses data. If it never forgets, its memory fills up.",
                "The answer is to acknowledge twice.",
            ),
        ),
        Scene(
            "Applied, then saved",
            "TwoStep",
            (
                "Here is your player, with a few numbered frames in its hand.",
                "It sends them over the socket. The server writes them to the stream, and the actor applies them.",
                "Now comes the first answer. Sequence twelve means: everything up to twelve is in Redis, and has been "
                "applied.",
                "But the player keeps its copies.",
                "A moment later, the checkpoint is committed in Postgres, and the second number moves: saved, twelve.",
                "Now, and only now, the player lets go.",
            ),
        ),
        Scene(
            "Why two numbers?",
            "Points",
            (
                "Redis is fast, and Postgres is safe. Each gets a number of its own.",
                "The first one tells the player that the road is open, and that its actor is alive.",
                "The second one tells it that the frames would survive even the loss of all of Redis.",
            ),
            ("", "ack.seq     in Redis, and applied", "ack.saved   in Postgres, for good"),
        ),
        Scene(
            "All of Redis, gone",
            "Wipe",
            (
                "So let us wipe Redis.",
                "The next claim finds a checkpoint up to frame nine, but no stream behind it.",
                "The server greets the player with what it has: nine.",
                "The player still holds ten, eleven and twelve, and sends them again.",
                "Nothing is missing, and nothing counts twice, because each frame has kept its number.",
            ),
        ),
        Scene(
            "Nobody has to guess",
            "Points",
            (
                "The same rule covers every reconnection.",
                "The server says which frame was the last. The player sends everything above it.",
                "What has been seen before is refused, and changes nothing.",
                "A frame that is missing for good is counted, and the session goes on.",
            ),
            ("", "hello.seq: send what lies above", "Seen before: refused, harmless", "Missing: counted in gaps"),
        ),
        Scene(
            "In one sentence",
            "TwoStep",
            (
                "Acknowledge when it is applied. Acknowledge again when it is saved.",
                "In between, both sides hold a copy.",
            ),
            ("settled",),
        ),
    ),
)

QUALITY: Final = Lecture(
    name="quality",
    title="How quality is decided",
    description="Throughput, buffer and a few facts about the viewer become one cap with a reason.",
    scenes=(
        Scene(
            "",
            "Title",
            (
                "A video like this one is stored several times over, each time at another bitrate.",
                "We call that a ladder, and each version is a rung.",
                "The higher the rung, the sharper the picture, and the more the network has to carry.",
            ),
        ),
        Scene(
            "The buffer",
            "Buffer",
            (
                "Your player fetches the video in short segments, and keeps some seconds of them in a buffer.",
                "As long as something is in there, you do not notice the network at all.",
                "When it runs empty, the picture stops. That is a stall, and it is what viewers hate most.",
            ),
        ),
        Scene(
            "From a report to a decision",
            "Ladder",
            (
                "With every report, the player tells what it measured: the throughput, the length of the buffer, "
                "and the size of each segment that it fetched.",
                "The actor hands this to a small, pure function, called decide.",
                "When the throughput falls, it steps down early, while there is still buffer to spend.",
                "When the network recovers, it climbs again, but with more care, because a picture that keeps "
                "changing is tiring too.",
            ),
        ),
        Scene(
            "More than throughput",
            "Points",
            (
                "It looks at other things as well.",
                "At double speed, the buffer drains twice as fast.",
                "A small window needs no pixels that nobody can see.",
                "Somebody may have asked to save data.",
                "And before anything has been measured, it looks at what others on the same network get.",
            ),
            ("", "Playback rate", "Viewport", "Data saver", "The network's history"),
        ),
        Scene(
            "Advice, not orders",
            "Cap",
            (
                "The answer is a cap: the highest bitrate that the player should choose, and a reason in plain words.",
                "It holds for ten seconds, and every acknowledgement renews it.",
                "If the server falls silent, the advice runs out, and the player decides for itself, "
                "as players have always done.",
            ),
        ),
        Scene(
            "Try it",
            "Ladder",
            (
                "Now throttle your network, and watch the plot on this page.",
                "You will see the decision fall, the picture follow, and both come back.",
            ),
        ),
    ),
)

CRASH: Final = Lecture(
    name="crash",
    title="What a crash costs: nothing",
    description="Kill the process in mid-lecture and follow every frame to where it is kept.",
    scenes=(
        Scene(
            "",
            "Title",
            (
                "Let us take the most brutal thing that one can do to a process: kill minus nine.",
                "No warning, no last words, no chance to write anything down.",
                "What is lost?",
            ),
        ),
        Scene(
            "Where everything is kept",
            "Replay",
            (
                "The process held actors, with up to a second of work that was not yet in Postgres.",
                "The entries behind that work are safe: they are in the stream. Another process replays them.",
                "And frames that had not reached the stream are still with the player, because nobody had "
                "acknowledged them.",
            ),
        ),
        Scene(
            "Coming back",
            "Jitter",
            (
                "The players notice that their sockets are closed.",
                "If all of them came back in the same instant, the new process would be crushed.",
                "So each one waits for a random moment, and then opens a new socket.",
                "The session is claimed, loaded, replayed and greeted. "
                "And all the while, the video has played on from its buffer.",
            ),
        ),
        Scene(
            "And if nobody comes back?",
            "Claim",
            (
                "Sometimes a learner closes the lid, and that is that.",
                "Then a reaper finds the session.",
                "It claims it in the same way, with the same epoch, and replays what is in the stream.",
                "So the figures that an instructor sees are exact, whether or not anybody said goodbye.",
            ),
            ("reaper",),
        ),
        Scene(
            "What it costs in good times",
            "Batch",
            (
                "All this is cheap when nothing is wrong.",
                "Once a second, a process saves every actor that changed, "
                "in one statement for up to five hundred of them.",
                "If Postgres refuses one row, it is found and set aside.",
                "The other four hundred and ninety-nine are saved.",
            ),
        ),
        Scene(
            "The promise",
            "Points",
            (
                "So here is the promise.",
                "A frame that was acknowledged is applied exactly once, to the state that is finally saved.",
                "A newer checkpoint is never overwritten by an older owner.",
                "And the process is only a place, where the work happens to be done.",
            ),
            ("", "Acknowledged is applied, exactly once", "Newer is never overwritten", "A process is only a place"),
        ),
    ),
)

TRACE: Final = Lecture(
    name="trace",
    title="Reading a network trace",
    description="What a curve of throughput over time tells, and what an average hides.",
    is_preview=True,
    scenes=(
        Scene(
            "",
            "Title",
            (
                "A network trace is a simple thing: how many bits came through, second by second.",
                "Yet most of what goes wrong in a video can be read from it, if one knows where to look.",
                "We will look at one trace for two minutes, and ask it three questions.",
            ),
        ),
        Scene(
            "A ride on a train",
            "Trace",
            (
                "This could be a phone on a train.",
                "Time runs to the right. The height is what the network could carry.",
                "There are good minutes, in which everything is possible, even the highest rung of the ladder.",
                "And there are tunnels, in which next to nothing comes through, and the phone waits for the other end.",
                "Put your finger on the curve, and you can feel the ride.",
            ),
            ("curve", "axes", "good", "dips", "axes"),
        ),
        Scene(
            "The average lies",
            "Trace",
            (
                "The mean of this curve is a little over two megabits per second.",
                "A player that believed it would choose a rung just below that line, and hope for the best.",
                "But more than half of the trip lies below that line, and there it would stall.",
                "The harmonic mean gives slow seconds more weight, and so it is far more honest.",
            ),
            ("mean", "mean", "below", "harmonic"),
        ),
        Scene(
            "How long, rather than how deep",
            "Trace",
            (
                "Now look at the dips, one by one.",
                "A buffer of ten seconds swallows the short ones, as if they had never been.",
                "It is the long dip that matters, not the deep one.",
                "Before a long dip, the best thing is a full buffer. During it, the best thing is a lower rung.",
            ),
            ("dips", "short", "long", "long"),
        ),
        Scene(
            "Three questions",
            "Points",
            (
                "So when you are given a trace, ask three questions.",
                "How low is the harmonic mean?",
                "How long is the longest dip?",
                "And how quickly does the curve turn, compared to the length of a segment?",
                "With these three answers, you can say how a lecture will feel, before anybody has watched it.",
            ),
            ("", "How low is the harmonic mean?", "How long is the longest dip?", "How quickly does it turn?", ""),
        ),
    ),
)

EXPERIENCE: Final = Lecture(
    name="experience",
    title="Measuring what a viewer feels",
    description="Startup, stalls, bitrate and switches, and why they are kept apart.",
    scenes=(
        Scene(
            "",
            "Title",
            (
                "Networks are measured in bits. Viewers are not.",
                "Nobody has ever complained that a segment took two seconds instead of one.",
                "This lecture is about the few numbers that do come close to what a viewer feels.",
            ),
        ),
        Scene(
            "One minute of watching",
            "Playback",
            (
                "Here is one minute of somebody's watching, from the click to the end.",
                "It begins with a wait. The startup delay is the time from the click to the first picture.",
                "Then it plays, and time on the wall and time in the video go side by side.",
                "Here it stops: a stall. The wall clock goes on, but the video does not.",
            ),
            ("all", "startup", "play", "stall"),
        ),
        Scene(
            "Stalls",
            "Playback",
            (
                "Count the stalls, and add up how long they took.",
                "Divided by the time spent watching, stalls included, that gives the rebuffer ratio.",
                "One per cent sounds small. In a lecture of an hour, it is more than half a minute of staring "
                "at a still picture.",
            ),
            ("stall", "ratio", "ratio"),
        ),
        Scene(
            "Bitrate and switches",
            "Ladder",
            (
                "Now the time that does play. At every moment of it, one rung of the ladder was shown.",
                "Its mean bitrate says how sharp the picture was.",
                "The number of switches says how restless it was.",
                "A little less sharpness, held steadily, is often the better bargain.",
                "Look at the curve: down at once when it has to be, and up again step by step.",
            ),
        ),
        Scene(
            "Keep them apart",
            "Points",
            (
                "It is tempting to melt all of this into a single score.",
                "For comparing two algorithms, that is useful.",
                "For helping a learner, it is not, because a score does not say what to mend.",
                "So keep the numbers apart, and look at the worst twentieth of sessions, not at the average one.",
            ),
            ("One score?", "Good for comparing", "Poor for mending", "Look at the worst sessions"),
        ),
    ),
)

COURSES: Final = (
    Course(
        "How this server works",
        "Five short lectures about the machine that plays them: streams, fences, acknowledgements, quality, crashes.",
        (FOLD, FENCE, ACKNOWLEDGE, QUALITY, CRASH),
    ),
    Course(
        "Reading a network",
        "Two short lectures for anybody who has watched a video stop: what a trace tells, and what a viewer feels.",
        (TRACE, EXPERIENCE),
    ),
)
