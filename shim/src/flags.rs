//! The command line that containerd gives a shim, in Go's flag syntax.

use anyhow::{Result, bail};

use crate::guest::submounts::ACTION;

/// What this process was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Delete,
    Info,
    Version,
    /// The server itself; only the start action runs it.
    Serve,
    /// An OCI hook of containers that have volumes inside volumes.
    Mount,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// containerd's gRPC address.
    pub(crate) address: String,
    pub(crate) publish_binary: String,
    /// Bundle directory; only given to delete.
    pub(crate) bundle: String,
    /// Our socket's path; only given to serve.
    pub(crate) socket: String,
    /// What to mount; only given to mount.
    pub(crate) plan: String,
    pub(crate) debug: bool,
}

/// Parses the arguments after the program's name. `-x v`, `-x=v` and the same
/// with two dashes mean the same; the first word that is no flag is the action.
pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<(Action, Flags)> {
    let mut flags = Flags::default();
    let mut args = args.into_iter();
    let (mut info, mut version, mut action) = (false, false, None);
    while let Some(arg) = args.next() {
        let Some(flag) = arg.strip_prefix('-') else {
            action = Some(arg);
            break;
        };
        let flag = flag.strip_prefix('-').unwrap_or(flag);
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let switch = |on: Option<String>| on.is_none_or(|v| v == "true" || v == "1");
        let target = match name {
            "debug" => {
                flags.debug = switch(inline);
                continue;
            }
            "info" => {
                info = switch(inline);
                continue;
            }
            "v" | "version" => {
                version = switch(inline);
                continue;
            }
            "namespace" => &mut flags.namespace,
            "id" => &mut flags.id,
            "address" => &mut flags.address,
            "publish-binary" => &mut flags.publish_binary,
            "bundle" => &mut flags.bundle,
            "socket" => &mut flags.socket,
            "plan" => &mut flags.plan,
            _ => bail!("unknown flag -{name}"),
        };
        let Some(value) = inline.or_else(|| args.next()) else {
            bail!("flag -{name} needs a value");
        };
        *target = value;
    }
    let action = match (version, info, action.as_deref()) {
        (true, ..) => Action::Version,
        (_, true, _) => Action::Info,
        (.., Some("start")) => Action::Start,
        (.., Some("delete")) => Action::Delete,
        (.., Some("serve")) => Action::Serve,
        (.., Some(ACTION)) => Action::Mount,
        (.., Some(other)) => bail!("unknown action {other:?}, expected start or delete"),
        (.., None) => bail!("no action given, expected start, delete, -info or -v"),
    };
    if !matches!(action, Action::Info | Action::Version | Action::Mount) {
        valid_name("-namespace", &flags.namespace)?;
        valid_name("-id", &flags.id)?;
    }
    Ok((action, flags))
}

/// Names become path components, so they are held to what containerd allows.
pub(crate) fn valid_name(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(allowed) {
        bail!("{what} {name:?} is not a valid identifier");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn parses_what_containerd_sends() {
        let (action, flags) = parse(words(
            "-namespace k8s.io -address /run/c.sock -publish-binary /bin/containerd -id a1 -debug start",
        ))
        .unwrap();
        assert_eq!(action, Action::Start);
        assert!(flags.debug);
        assert_eq!(
            (flags.namespace.as_str(), flags.id.as_str()),
            ("k8s.io", "a1")
        );
        assert_eq!(flags.address, "/run/c.sock");
    }

    #[test]
    fn parses_inline_values_and_two_dashes() {
        let (action, flags) = parse(words("--namespace=n --id=x -bundle=/b delete")).unwrap();
        assert_eq!((action, flags.bundle.as_str()), (Action::Delete, "/b"));
    }

    #[test]
    fn info_and_version_need_nothing_else() {
        assert_eq!(parse(words("-info")).unwrap().0, Action::Info);
        assert_eq!(parse(words("-v")).unwrap().0, Action::Version);
    }

    #[test]
    fn names_cannot_leave_the_state_directory() {
        for id in ["..", ".", "a/b", "", "a b"] {
            let args = vec!["-namespace=n".into(), format!("-id={id}"), "start".into()];
            assert!(parse(args).is_err(), "{id:?} was accepted");
        }
    }
}
