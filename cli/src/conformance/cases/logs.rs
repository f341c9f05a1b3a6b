//! Logs.

use anyhow::{Context, ensure};
use http_body_util::BodyExt;
use serde_json::json;

use super::{mounts, volumes};
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::test::{Test, With, expect, expect_in, skip};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "logs.order",
            order,
            "Thousands of lines are in the log, in their order.",
            "concepts/cluster-administration/logging/"
        ),
        case!(
            "logs.long-line",
            long_line,
            "A line longer than the runtime's buffers stays one line.",
            "concepts/cluster-administration/logging/"
        ),
        case!(
            "logs.bytes",
            bytes,
            "Any byte may be in a log.",
            "concepts/cluster-administration/logging/"
        ),
        case!(
            "logs.unfinished-line",
            unfinished,
            "The last line is in the log, also without a line's end.",
            "concepts/cluster-administration/logging/"
        ),
        case!(
            "logs.both-streams",
            both_streams,
            "Standard output and error are both in the log.",
            "concepts/cluster-administration/logging/"
        ),
        case!(
            "logs.follow",
            follow,
            "Who follows a log gets each line when it is written, and the end when the container ends.",
            "concepts/cluster-administration/logging/"
        ),
        case!(
            "logs.previous",
            previous,
            "The log of the container before the last restart can be read.",
            "tasks/debug/debug-application/debug-running-pod/"
        ),
        case!(
            "logs.tail",
            tail,
            "The last lines of a log can be asked for.",
            "concepts/cluster-administration/logging/"
        ),
        case!(
            "logs.timestamps",
            timestamps,
            "Each line of a log has its time.",
            "concepts/cluster-administration/logging/"
        ),
        case!(
            "logs.rotation",
            rotation,
            "A log that has grown too large is begun anew, and what is printed later is in it.",
            "concepts/cluster-administration/logging/"
        )
        .optional()
        .slow(),
        case!(
            "logs.separate",
            separate,
            "A container's log has nothing of its neighbour's.",
            "concepts/cluster-administration/logging/"
        ),
    ]
}

async fn order(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &["lines", "5000"])) }))
        .await?;
    test.each(async |half| {
        let log = pod.printed(half.as_str()).await?;
        let mut count = 0;
        for (line, number) in log.lines().zip(1..) {
            expect("line", line, format!("line {number}").as_str())?;
            count = number;
        }
        expect("lines", count, 5000)
    })
    .await
}

async fn long_line(test: Test) -> Verdict {
    let words = ["in-turn", "long", "100000", "--", "say", "next"];
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &words)) }))
        .await?;
    test.each(async |half| {
        let log = pod.printed(half.as_str()).await?;
        let lengths: Vec<usize> = log.lines().map(str::len).collect();
        expect("lengths of the lines", lengths, vec![100_000, 4])
    })
    .await
}

async fn bytes(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &["bytes"])) }))
        .await?;
    test.each(async |half| {
        pod.printed(half.as_str()).await?;
        let log = pod.log_bytes(half.as_str(), "").await?;
        let all: Vec<u8> = (0..=255).collect();
        expect("log", log, all)
    })
    .await
}

async fn unfinished(test: Test) -> Verdict {
    let words = ["in-turn", "say", "whole", "--", "partial", "unfinished"];
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &words)) }))
        .await?;
    pod.both_print("whole\nunfinished").await
}

async fn both_streams(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &["streams"])) }))
        .await?;
    test.each(async |half| {
        let log = pod.printed(half.as_str()).await?;
        expect_in("log", &log, "to stdout\n")?;
        expect_in("log", &log, "to stderr\n")
    })
    .await
}

async fn follow(test: Test) -> Verdict {
    let words = [
        "in-turn", "say", "first", "--", "answer", "--", "say", "last",
    ];
    let stdin = json!({ "stdin": true, "stdinOnce": true });
    let pod = test.pod(json!({ "containers": test.both(|half| test.command(half, &words).with(stdin.clone())) })).await?;
    pod.both_run().await?;
    test.each(async |half| {
        let path = format!("{}/log?container={half}&follow=true", pod.path());
        let mut body = test.namespace().stream(&path).await?;
        let mut seen = String::new();
        while !seen.contains("first\n") {
            let frame = body
                .frame()
                .await
                .context("the log ended before the container")??;
            let data = frame.into_data().unwrap_or_default();
            seen.push_str(&String::from_utf8_lossy(&data));
        }
        // It still runs: the line came before its end. Now it is let go.
        pod.runs(half.as_str()).await?;
        let parameters = kube::api::AttachParams::default()
            .container(half.as_str())
            .stdin(true);
        let mut process = test.namespace().attach(pod.name(), &parameters).await?;
        let mut stdin = process.stdin().context("stdin is not there")?;
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"end\n").await?;
        while let Some(frame) = body.frame().await {
            let data = frame?.into_data().unwrap_or_default();
            seen.push_str(&String::from_utf8_lossy(&data));
        }
        expect("log", seen.as_str(), "first\nlast\n")
    })
    .await
}

async fn previous(test: Test) -> Verdict {
    let container = |half: Half| {
        let file = format!("/shared/{half}");
        // The second one stays: only the last ended container's log is kept.
        let words = ["in-turn", "fail-once", &file, "--", "stay"];
        test.command(half, &words).with(mounts())
    };
    let spec = json!({
        "restartPolicy": "OnFailure", "containers": test.both(container), "volumes": volumes(),
    });
    let pod = test.pod(spec).await?;
    test.each(async |half| {
        pod.restarted(half.as_str()).await?;
        let previous = pod.log_bytes(half.as_str(), "&previous=true").await?;
        expect_in(
            "previous log",
            &String::from_utf8_lossy(&previous),
            "first time",
        )?;
        pod.says(half.as_str(), "second time").await
    })
    .await
}

async fn tail(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &["lines", "100"])) }))
        .await?;
    test.each(async |half| {
        pod.printed(half.as_str()).await?;
        let tail = pod.log_bytes(half.as_str(), "&tailLines=2").await?;
        expect(
            "tail",
            String::from_utf8_lossy(&tail).as_ref(),
            "line 99\nline 100\n",
        )?;
        let head = pod.log_bytes(half.as_str(), "&limitBytes=6").await?;
        expect("head", String::from_utf8_lossy(&head).as_ref(), "line 1")
    })
    .await
}

async fn timestamps(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &["lines", "10"])) }))
        .await?;
    test.each(async |half| {
        pod.printed(half.as_str()).await?;
        let log = pod.log_bytes(half.as_str(), "&timestamps=true").await?;
        let log = String::from_utf8_lossy(&log).into_owned();
        let mut before = None;
        for (line, number) in log.lines().zip(1..) {
            let (stamp, text) = line.split_once(' ').context("a line without a time")?;
            expect("line", text, format!("line {number}").as_str())?;
            let format = &time::format_description::well_known::Rfc3339;
            let at = time::OffsetDateTime::parse(stamp, format);
            let at = at.with_context(|| format!("not a time: {stamp}"))?;
            ensure!(
                before.is_none_or(|before| before <= at),
                "{stamp} is before the line before"
            );
            before = Some(at);
        }
        ensure!(before.is_some(), "the log is empty");
        Ok(())
    })
    .await
}

async fn separate(test: Test) -> Verdict {
    let pod = test
        .pod(json!({ "containers": test.both(|half| test.command(half, &["say", half.as_str()])) }))
        .await?;
    test.each(async |half| pod.prints(half.as_str(), half.as_str()).await)
        .await
}

async fn rotation(test: Test) -> Verdict {
    const MOST: u64 = 20;
    let container = |half: Half| {
        let file = format!("/shared/{half}");
        // Lines of a MiB are more than kubelet's limit after so many.
        let mut words = vec!["in-turn", "say", "first"];
        words.extend(["--", "long", "1048576"].repeat(MOST as usize));
        words.extend(["--", "wait", &file, "--", "say", "later", "--", "stay"]);
        test.command(half, &words).with(mounts())
    };
    let pod = test
        .pod(json!({ "containers": test.both(container), "volumes": volumes() }))
        .await?;
    pod.both_run().await?;
    let object = pod.object().await?;
    let node = object["spec"]["nodeName"].as_str().unwrap_or_default();
    let path = format!("/api/v1/nodes/{node}/proxy/configz");
    let config = test.namespace().get(&path).await?;
    let limit = config["kubeletconfig"]["containerLogMaxSize"].as_str();
    let limit = limit.context("kubelet tells no containerLogMaxSize")?;
    if mebibytes(limit).is_none_or(|limit| limit + 1 >= MOST) {
        return skip(format!(
            "kubelet keeps {limit} of a log: the case prints {MOST} MiB"
        ));
    }
    test.each(async |half| {
        let begin = async || pod.log_bytes(half.as_str(), "&limitBytes=6").await;
        test.until(async || {
            ensure!(begin().await? != b"first\n", "the log is still the first");
            Ok(())
        })
        .await?;
        let written = pod
            .exec(half, &["write", &format!("/shared/{half}"), "yes"])
            .await?;
        expect("exit code of write", written.code, 0)?;
        test.until(async || {
            let tail = pod.log_bytes(half.as_str(), "&tailLines=1").await?;
            expect(
                "last line",
                String::from_utf8_lossy(&tail).as_ref(),
                "later\n",
            )
        })
        .await
    })
    .await
}

/// As kubelet's configuration writes it: `10Mi`.
fn mebibytes(quantity: &str) -> Option<u64> {
    quantity.strip_suffix("Mi")?.parse().ok()
}
