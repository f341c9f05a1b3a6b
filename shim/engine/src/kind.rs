//! What a module can be run as, and what it is run as.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a guest is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A core module of WASI 0.1, started at `_start` or at a named export.
    CommandP1,
    /// A component that exports `wasi:cli/run@0.2`.
    CommandP2,
    /// A component that exports `wasi:cli/run@0.3`.
    CommandP3,
    /// A component that exports `wasi:http/incoming-handler@0.2`: an instance a request.
    Http,
    /// A component that exports `wasi:http/handler@0.3`: an instance a request.
    HttpP3,
}

impl Kind {
    /// The later ones win where more than one fits.
    const ALL: [Self; 5] = [
        Self::CommandP1,
        Self::CommandP2,
        Self::CommandP3,
        Self::Http,
        Self::HttpP3,
    ];

    /// The name in JSON and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CommandP1 => "command-p1",
            Self::CommandP2 => "command-p2",
            Self::CommandP3 => "command-p3",
            Self::Http => "http",
            Self::HttpP3 => "http-p3",
        }
    }

    /// Whether it listens for HTTP.
    pub fn is_service(self) -> bool {
        matches!(self, Self::Http | Self::HttpP3)
    }

    fn bit(self) -> u32 {
        match self {
            Self::CommandP1 => 1,
            Self::CommandP2 => 2,
            Self::Http => 4,
            Self::CommandP3 => 8,
            Self::HttpP3 => 16,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All that a module can be run as. Kept with the compiled module, because one module may be
/// run as a service in one container and as a command in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u32);

/// Why no kind fits.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    #[error(
        "has nothing to run: it exports none of _start, wasi:cli/run@0.2 or 0.3, wasi:http/incoming-handler@0.2 and wasi:http/handler@0.3"
    )]
    Nothing,
    #[error(
        "is a service that exports no wasi:cli/run: its container serves requests with it, and it cannot be run as a command"
    )]
    Service,
    #[error(
        "has no export {export:?} to run; a component is run by wasi:cli/run, wasi:http/incoming-handler or wasi:http/handler"
    )]
    NoExport { export: String },
}

impl Kinds {
    pub const NONE: Self = Self(0);
    /// A core module without `_start` that has other functions, to be run by name only.
    const NAMED: u32 = 1 << 31;
    /// A component that was compiled with support for concurrency.
    const CONCURRENT: u32 = 1 << 30;
    /// No guest: a cache entry that says why there is none.
    pub(crate) const REFUSED: Self = Self(1 << 29);

    /// Adds that a core module exports functions which the Pod may name.
    pub fn with_named_functions(self) -> Self {
        Self(self.0 | Self::NAMED)
    }

    /// Adds that it was compiled for an engine that supports concurrency: WASI 0.3 needs one,
    /// and code for one engine does not run in the other.
    pub fn with_concurrency(self) -> Self {
        Self(self.0 | Self::CONCURRENT)
    }

    pub fn needs_concurrency(self) -> bool {
        self.0 & Self::CONCURRENT != 0
    }

    pub fn with(self, kind: Kind) -> Self {
        Self(self.0 | kind.bit())
    }

    pub fn contains(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL
            .into_iter()
            .filter(move |kind| self.contains(*kind))
    }

    /// The kind to run, when the Pod names `export` (the part after `#`) or none. Where more
    /// than one fits, HTTP wins: some toolchains' services export `wasi:cli/run` too.
    ///
    /// An export of a core module is looked up by the runner, which knows their types.
    ///
    /// # Errors
    /// When nothing fits.
    pub fn choose(self, export: Option<&str>) -> Result<Kind, KindError> {
        let Some(export) = export else {
            return self.iter().last().ok_or(KindError::Nothing);
        };
        let (interface, version) = export.split_once('@').unwrap_or((export, ""));
        let run = |kind, minor| self.contains(kind) && may_be(version, minor);
        let wanted = match interface {
            "wasi:http/incoming-handler" | "incoming-handler" => Kind::Http,
            "wasi:http/handler" | "handler" if self.contains(Kind::HttpP3) => Kind::HttpP3,
            "wasi:cli/run" | "run" if run(Kind::CommandP3, "0.3") => Kind::CommandP3,
            "wasi:cli/run" | "run" if run(Kind::CommandP2, "0.2") => Kind::CommandP2,
            _ => Kind::CommandP1,
        };
        if self.contains(wanted) || (wanted == Kind::CommandP1 && self.0 & Self::NAMED != 0) {
            Ok(wanted)
        } else {
            Err(KindError::NoExport {
                export: export.to_owned(),
            })
        }
    }

    /// The kind to run beside a container's first process: never a service.
    ///
    /// # Errors
    /// When nothing fits.
    pub fn choose_command(self, export: Option<&str>) -> Result<Kind, KindError> {
        let services = Kind::Http.bit() | Kind::HttpP3.bit();
        match Self(self.0 & !services).choose(export) {
            Err(_) if self.0 & services != 0 => Err(KindError::Service),
            chosen => chosen,
        }
    }

    /// Whether there is nothing that a Pod could run, whatever it names.
    #[cfg(feature = "compile")]
    pub(crate) fn is_empty(self) -> bool {
        self.0 & !Self::CONCURRENT == 0
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// None when a bit is set that this version does not know.
    pub(crate) fn from_bits(bits: u32) -> Option<Self> {
        let known = Kind::ALL
            .iter()
            .fold(Self::NAMED | Self::CONCURRENT, |all, kind| all | kind.bit());
        (bits & !known == 0 || bits == Self::REFUSED.0).then_some(Self(bits))
    }
}

/// Whether the version that the Pod gives, if it gives one, is of `minor`.
fn may_be(version: &str, minor: &str) -> bool {
    version.is_empty() || version.starts_with(minor)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const P1: Kinds = Kinds(1);
    const P2: Kinds = Kinds(2);
    const HTTP: Kinds = Kinds(4);
    const BOTH: Kinds = Kinds(6);
    const P3: Kinds = Kinds(8 | Kinds::CONCURRENT);
    const HTTP_P3: Kinds = Kinds(16 | Kinds::CONCURRENT);
    const ALL: Kinds = Kinds(31 | Kinds::CONCURRENT);

    #[rstest]
    #[case(P1, None, Ok(Kind::CommandP1))]
    #[case(P1, Some("main"), Ok(Kind::CommandP1))]
    #[case(P1, Some("run"), Ok(Kind::CommandP1))]
    #[case(Kinds::NONE.with_named_functions(), Some("main"), Ok(Kind::CommandP1))]
    #[case(Kinds::NONE.with_named_functions(), None, Err(KindError::Nothing))]
    #[case(P2, None, Ok(Kind::CommandP2))]
    #[case(HTTP, None, Ok(Kind::Http))]
    #[case(P3, None, Ok(Kind::CommandP3))]
    #[case(P3, Some("run"), Ok(Kind::CommandP3))]
    #[case(HTTP_P3, None, Ok(Kind::HttpP3))]
    #[case(HTTP_P3, Some("wasi:http/handler@0.3.0"), Ok(Kind::HttpP3))]
    #[case(ALL, None, Ok(Kind::HttpP3))]
    #[case(ALL, Some("run"), Ok(Kind::CommandP3))]
    #[case(ALL, Some("wasi:cli/run@0.2.12"), Ok(Kind::CommandP2))]
    #[case(ALL, Some("wasi:http/incoming-handler"), Ok(Kind::Http))]
    #[case(BOTH, None, Ok(Kind::Http))]
    #[case(BOTH, Some("wasi:cli/run@0.2.0"), Ok(Kind::CommandP2))]
    #[case(BOTH, Some("run"), Ok(Kind::CommandP2))]
    #[case(BOTH, Some("wasi:http/incoming-handler"), Ok(Kind::Http))]
    #[case(Kinds::NONE, None, Err(KindError::Nothing))]
    #[case(HTTP, Some("run"), Err(KindError::NoExport { export: "run".into() }))]
    #[case(P2, Some("other"), Err(KindError::NoExport { export: "other".into() }))]
    fn chooses(
        #[case] kinds: Kinds,
        #[case] export: Option<&str>,
        #[case] expected: Result<Kind, KindError>,
    ) {
        assert_eq!(kinds.choose(export), expected);
    }

    #[rstest]
    #[case(P1, None, Ok(Kind::CommandP1))]
    #[case(BOTH, None, Ok(Kind::CommandP2))]
    #[case(HTTP, None, Err(KindError::Service))]
    #[case(BOTH, Some("wasi:http/incoming-handler"), Err(KindError::Service))]
    #[case(HTTP_P3, None, Err(KindError::Service))]
    #[case(ALL, None, Ok(Kind::CommandP3))]
    #[case(Kinds::NONE, None, Err(KindError::Nothing))]
    fn chooses_a_command(
        #[case] kinds: Kinds,
        #[case] export: Option<&str>,
        #[case] expected: Result<Kind, KindError>,
    ) {
        assert_eq!(kinds.choose_command(export), expected);
    }

    #[test]
    fn a_kind_is_named_alike_in_json_and_in_messages() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }
}
