//! Listeners of native documents, by which foreign routes and certificates go.

/// Listeners that native documents declare, by protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NativeListeners {
    /// Names of those with `http`.
    pub http: Vec<String>,
    /// Names of those with `https`.
    pub https: Vec<String>,
    /// Names of those with `tls_passthrough`.
    pub passthrough: Vec<String>,
    /// True if any listener is declared.
    pub any: bool,
}

impl NativeListeners {
    /// Adds a listener by its protocol.
    pub fn add(&mut self, name: &str, protocol: &str) {
        self.any = true;
        match protocol {
            "http" => self.http.push(name.to_owned()),
            "https" => self.https.push(name.to_owned()),
            "tls_passthrough" => self.passthrough.push(name.to_owned()),
            _ => {}
        }
    }
}
