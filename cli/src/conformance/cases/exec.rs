//! Programs that are run in a container, and terminals attached to one.

use anyhow::{Context, ensure};
use kube::api::{AttachParams, TerminalSize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{mounts, volumes};
use crate::conformance::api;
use crate::conformance::case::{Case, Half, Verdict, case};
use crate::conformance::pod::Running;
use crate::conformance::test::{Test, With, expect, expect_in, there};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "exec.output",
            output,
            "A program run in a container has its standard output and error kept apart.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.exit-code",
            exit_code,
            "The exit code of a program run in a container reaches the caller.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.stdin",
            stdin,
            "A program run in a container reads what the caller sends, to its end.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.arguments",
            arguments,
            "Arguments of a program run in a container reach it unchanged.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.environment",
            environment,
            "A program run in a container has the container's variables.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.files",
            files,
            "A program run in a container sees and changes the container's files and volumes.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.large-output",
            large_output,
            "Much output of a program run in a container arrives whole.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.side-by-side",
            side_by_side,
            "Many programs run in a container at the same time.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.leaves-the-container",
            leaves,
            "A program that fails in a container leaves the container running.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.missing-program",
            missing,
            "A program that the image does not have is an error that names it.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.tty",
            tty,
            "A program run with a terminal finds one at all three standard streams.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "exec.tty-resize",
            resize,
            "The terminal of a program can be resized while it runs.",
            "tasks/debug/debug-application/get-shell-running-container/"
        ),
        case!(
            "attach.output",
            attach_output,
            "Who attaches to a container sees what it prints from then on.",
            "reference/kubectl/generated/kubectl_attach/"
        ),
        case!(
            "attach.stdin",
            attach_stdin,
            "A container reads what an attached caller types.",
            "reference/kubectl/generated/kubectl_attach/"
        ),
        case!(
            "attach.tty",
            attach_tty,
            "A container with a terminal finds one, and answers through it.",
            "reference/kubectl/generated/kubectl_attach/"
        ),
    ]
}

/// A Pod whose containers stay.
async fn staying(test: &Test) -> anyhow::Result<Running> {
    let containers = test.both(|half| test.command(half, &["stay"]).with(mounts()));
    let pod = test
        .pod(json!({ "containers": containers, "volumes": volumes() }))
        .await?;
    pod.both_run().await?;
    Ok(pod)
}

async fn output(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        let output = pod.exec(half, &["streams"]).await?;
        expect("exit code", output.code, 0)?;
        expect("stdout", output.text().as_str(), "to stdout\n")?;
        expect(
            "stderr",
            String::from_utf8_lossy(&output.stderr).as_ref(),
            "to stderr\n",
        )
    })
    .await
}

async fn exit_code(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        for code in [0, 1, 42, 255] {
            let words = test.exit_words(half, code);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            expect(
                "exit code",
                pod.exec_any(half, &words, None).await?.code,
                code.into(),
            )?;
        }
        Ok(())
    })
    .await
}

async fn stdin(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        let text = "two\nlines, ünd more\n";
        let output = pod
            .exec_with(half, &["echo"], Some(text.as_bytes()))
            .await?;
        expect("echo", output.text().as_str(), text)?;
        let much = vec![b'x'; 300_000];
        let output = pod.exec_with(half, &["count-input"], Some(&much)).await?;
        expect("bytes read", output.text().trim_end(), "300000")
    })
    .await
}

async fn arguments(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        let words = ["args", "", "two words", "$(NOT_EXPANDED)", "世界"];
        pod.exec_prints(
            half,
            &words,
            "\"\"\n\"two words\"\n\"$(NOT_EXPANDED)\"\n\"世界\"",
        )
        .await
    })
    .await
}

async fn environment(test: Test) -> Verdict {
    let containers = test.both(|half| {
        let variables = json!([{ "name": "COLOUR", "value": half.as_str() }]);
        test.command(half, &["stay"])
            .with(json!({ "env": variables }))
    });
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    test.each(async |half| {
        let expected = format!("COLOUR={half}");
        pod.exec_prints(half, &["env", "COLOUR"], &expected).await
    })
    .await
}

async fn files(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        let file = format!("/shared/{half}");
        pod.exec_prints(half, &["write", &file, "written by exec"], "")
            .await?;
        pod.exec_prints(half.other(), &["cat", &file], "written by exec")
            .await?;
        pod.exec_prints(
            half,
            &[
                "in-turn",
                "write",
                "/own",
                half.as_str(),
                "--",
                "cat",
                "/own",
            ],
            half.as_str(),
        )
        .await?;
        // Still there for the next.
        pod.exec_prints(half, &["cat", "/own"], half.as_str()).await
    })
    .await
}

async fn large_output(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        let output = pod.exec(half, &["long", "1000000"]).await?;
        expect("bytes", output.stdout.len(), 1_000_001)
    })
    .await
}

async fn side_by_side(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        let pod = &pod;
        let runs = (0..6).map(|number| async move {
            let text = number.to_string();
            pod.exec_prints(half, &["say", &text], &text).await
        });
        futures_util::future::try_join_all(runs).await.map(drop)
    })
    .await
}

async fn leaves(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        ensure!(
            pod.exec(half, &["abort"]).await?.code != 0,
            "the program ended well"
        );
        pod.exec_prints(half, &["say", "still here"], "still here")
            .await?;
        pod.never_restarted().await
    })
    .await
}

async fn missing(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(
        async |half| match pod.exec_any(half, &["/no-such-program.wasm"], None).await {
            Err(error) => expect_in("error", &format!("{error:#}"), "no-such-program"),
            Ok(output) => {
                ensure!(output.code != 0, "it ended well");
                expect_in(
                    "stderr",
                    &String::from_utf8_lossy(&output.stderr),
                    "no-such-program",
                )
            }
        },
    )
    .await
}

async fn tty(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        let parameters = AttachParams::interactive_tty().container(half.as_str());
        let words = test.words(half, &["tty"]);
        let process = test
            .namespace()
            .exec_process(pod.name(), &words, &parameters);
        let mut process = process.await?;
        let status = there(process.take_status(), "the status")?;
        // Open until the end: a terminal whose input ends may be hung up.
        let _stdin = process.stdin();
        let mut stdout = there(process.stdout(), "stdout")?;
        until(&mut stdout, &mut String::new(), "[true, true, true]").await?;
        expect("exit code", api::exit_code(status.await)?, 0)
    })
    .await
}

async fn resize(test: Test) -> Verdict {
    let pod = staying(&test).await?;
    test.each(async |half| {
        let parameters = AttachParams::interactive_tty().container(half.as_str());
        // WASI has no way to ask for the size: there it must only do no harm.
        let linux = test.build(half) == Half::Linux;
        let (asks, expected) = match linux {
            true => ("terminal-size", "123 45"),
            false => ("tty", "[true, true, true]"),
        };
        // The size and what is typed come by different ways, in any order.
        const TURNS: usize = 50;
        let turn = ["answer", "--", asks, "--"];
        let acts = std::iter::repeat_n(turn, TURNS).flatten();
        let acts: Vec<_> = std::iter::once("in-turn")
            .chain(acts)
            .chain(["tty"])
            .collect();
        let words = test.words(half, &acts);
        let process = test
            .namespace()
            .exec_process(pod.name(), &words, &parameters);
        let mut process = process.await?;
        let mut sizes = process.terminal_size().context("no channel for the size")?;
        sizes
            .try_send(TerminalSize {
                width: 123,
                height: 45,
            })
            .context("resize")?;
        let (mut stdin, mut stdout) = (
            there(process.stdin(), "stdin")?,
            there(process.stdout(), "stdout")?,
        );
        let mut seen = String::new();
        for turn in 0..TURNS {
            stdin.write_all(format!("turn {turn}\n").as_bytes()).await?;
            until(&mut stdout, &mut seen, &format!("read \"turn {turn}\"")).await?;
            if seen.contains(expected) {
                return Ok(());
            }
            stdin.write_all(b"end\n").await?;
        }
        until(&mut stdout, &mut seen, expected).await
    })
    .await
}

/// Reads until a text has come.
async fn until(stream: &mut (impl AsyncReadExt + Unpin), seen: &mut String, text: &str) -> Verdict {
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let length = stream
            .read(&mut buffer)
            .await
            .context("read from the container")?;
        ensure!(
            length > 0,
            "the stream ended after {seen:?}, without {text:?}"
        );
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    Ok(())
}

async fn attach_output(test: Test) -> Verdict {
    let containers = test.both(|half| test.command(half, &["count"]));
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    test.each(async |half| {
        let parameters = AttachParams::default().container(half.as_str());
        let mut process = test.namespace().attach(pod.name(), &parameters).await?;
        let mut stdout = there(process.stdout(), "stdout")?;
        let mut seen = String::new();
        until(&mut stdout, &mut seen, "\n").await?;
        // The number after the last one that came: it was not there to be seen before.
        let last = seen.trim_end().lines().next_back().unwrap_or_default();
        let last: u64 = last
            .parse()
            .with_context(|| format!("not a number: {last:?}"))?;
        until(&mut stdout, &mut seen, &format!("\n{}\n", last + 2)).await
    })
    .await
}

async fn attach_stdin(test: Test) -> Verdict {
    attached(&test, false).await
}

async fn attach_tty(test: Test) -> Verdict {
    attached(&test, true).await
}

async fn attached(test: &Test, tty: bool) -> Verdict {
    let words = ["in-turn", "tty", "--", "answer", "--", "say", "bye"];
    let streams = json!({ "stdin": true, "tty": tty });
    let containers = test.both(|half| test.command(half, &words).with(streams.clone()));
    let pod = test.pod(json!({ "containers": containers })).await?;
    pod.both_run().await?;
    test.each(async |half| {
        let parameters = AttachParams::default()
            .container(half.as_str())
            .stdin(true)
            .stderr(!tty)
            .tty(tty);
        let mut process = test.namespace().attach(pod.name(), &parameters).await?;
        let (mut stdin, mut stdout) = (
            there(process.stdin(), "stdin")?,
            there(process.stdout(), "stdout")?,
        );
        let mut seen = String::new();
        stdin.write_all(b"first\n").await?;
        until(&mut stdout, &mut seen, "read \"first\"").await?;
        stdin.write_all(b"second\n").await?;
        until(&mut stdout, &mut seen, "read \"second\"").await?;
        // What a container prints last may come too late for whoever is attached.
        stdin.write_all(b"end\n").await?;
        expect("exit code", pod.ended(half.as_str()).await?.exit_code, 0)?;
        let terminals = if tty {
            "[true, true, true]"
        } else {
            "[false, false, false]"
        };
        let log = pod.log(half.as_str()).await?;
        expect_in("log", &log, terminals)?;
        expect_in("log", &log, "bye")
    })
    .await
}
