//! What a container's failure means, where its runtime's own words do not say.

/// The RuntimeClass is what is missing: runc was given a Wasm module, which it takes for a program of
/// the machine's. Without the executable bit it says one thing, with it another.
const RUNC_ON_WASM: [&str; 2] = ["permission denied", "exec format error"];

/// A remark on the message of a container that did not start; empty where there is none to make.
pub fn remark(message: &str) -> &'static str {
    let is_wasm = message.contains(".wasm") || message.contains(".wat");
    let is_runc = message.contains("exec") && RUNC_ON_WASM.iter().any(|why| message.contains(why));
    // An image for another architecture fails in the same words, and not with a Wasm file.
    if is_wasm && is_runc {
        " (runc was asked to run Wasm: the Pod has no runtimeClassName, or one whose handler runs no Wasm)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(
        r#"runc create failed: unable to start container process: error during container init: exec: "/service.wasm": permission denied"#,
        true
    )]
    #[case(
        r#"failed to create shim task: OCI runtime create failed: exec /service.wasm: exec format error: "/service.wasm""#,
        true
    )]
    #[case(r#"exec: "/linux": permission denied"#, false)]
    #[case(r#"exec: "/linux": exec format error"#, false)]
    #[case(r#"exec: "/service.wasm": no such file or directory"#, false)]
    #[case("", false)]
    fn runc_on_wasm_is_explained(#[case] message: &str, #[case] explained: bool) {
        assert_eq!(!remark(message).is_empty(), explained);
    }
}
