//! `outrigger ca` and `outrigger cert`: what they leave on disk and print, held against OpenSSL where there is one.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_outrigger");

/// A directory for one authority and what it hands out, gone with the test.
struct Desk(PathBuf);

impl Desk {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("outrigger-desk-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// With an authority.
    fn with_authority() -> Self {
        let desk = Self::new();
        desk.ca(&["init", "--trust-domain", "mesh.local"]);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `outrigger ca` in this directory, on the authority in it.
    fn try_ca(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.arg("ca").args(arguments).current_dir(&self.0).env_remove("OUTRIGGER_CA_KEY");
        command.args(["--dir", "ca"]).output().unwrap()
    }

    /// The same, of what must succeed. Returns standard output.
    fn ca(&self, arguments: &[&str]) -> String {
        let output = self.try_ca(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, of what must fail with `code`. Returns standard error.
    fn refused(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.try_ca(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty(), "{arguments:?} printed something");
        error
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.ca(&["status", "-o", "json"])).unwrap()
    }

    fn show(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(["cert", "show"]).args(arguments).current_dir(&self.0).output().unwrap()
    }

    /// Runs OpenSSL in this directory; both of its outputs, and whether it was content.
    fn openssl(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("openssl").args(arguments).current_dir(&self.0).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether there is an OpenSSL to ask. Says so if there is none: half of the test is not done then.
fn is_openssl_there() -> bool {
    let is_there = Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_ok();
    if !is_there {
        eprintln!("SKIPPED: there is no openssl, so nobody but ourselves has looked at the certificates");
    }
    is_there
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The digits after `name=` in what OpenSSL prints.
fn after<'a>(text: &'a str, name: &str) -> &'a str {
    text.split(name).nth(1).unwrap_or_else(|| panic!("no `{name}` in {text}")).lines().next().unwrap()
}

#[test]
fn an_issued_certificate_is_verified_by_openssl() {
    let desk = Desk::with_authority();
    desk.ca(&["issue", "web", "--node", "web-1", "--out", "tls"]);
    assert_eq!((mode(&desk.path("tls/tls.key")), mode(&desk.path("tls"))), (0o600, 0o700));
    assert_eq!((mode(&desk.path("ca.key")), mode(&desk.path("ca"))), (0o600, 0o700));
    assert_eq!(desk.text("tls/ca.crt"), desk.ca(&["bundle"]));
    assert_eq!(desk.text("tls/crl.pem"), desk.ca(&["crl"]));
    if !is_openssl_there() {
        return;
    }
    for purpose in ["sslserver", "sslclient"] {
        let checked =
            ["verify", "-x509_strict", "-purpose", purpose, "-crl_check", "-CRLfile", "tls/crl.pem"];
        let (is_good, said) =
            desk.openssl(&[&checked[..], &["-CAfile", "tls/ca.crt", "tls/tls.crt"]].concat());
        assert!(is_good, "{said}");
    }
    let (_, said) = desk.openssl(&["x509", "-in", "tls/tls.crt", "-noout", "-text"]);
    let names = said.split("Subject Alternative Name").nth(1).unwrap().lines().nth(1).unwrap().trim();
    assert_eq!(names, "URI:spiffe://mesh.local/service/web");
    for part in [
        "CA:FALSE",
        "Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client",
        "NIST CURVE: P-256",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (_, of_certificate) = desk.openssl(&["x509", "-in", "tls/tls.crt", "-noout", "-pubkey"]);
    let (_, of_key) = desk.openssl(&["pkey", "-in", "tls/tls.key", "-pubout"]);
    assert_eq!(of_certificate, of_key);
    let (_, said) = desk.openssl(&["x509", "-in", "tls/ca.crt", "-noout", "-text"]);
    for part in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "CN = Outrigger CA mesh.local 1"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (_, said) = desk.openssl(&["x509", "-in", "tls/ca.crt", "-noout", "-fingerprint", "-sha256"]);
    let fingerprint = after(&said, "Fingerprint=").replace(':', "").to_lowercase();
    assert_eq!(desk.status()["roots"][0]["fingerprint_sha256"], fingerprint.as_str());
}

#[test]
fn a_revoked_certificate_is_refused_by_openssl() {
    let desk = Desk::with_authority();
    desk.ca(&["issue", "web", "--out", "tls"]);
    let serial = desk.status()["certificates"][0]["serial"].as_str().unwrap().to_owned();
    let said = desk.ca(&["revoke", "--cert", "tls/tls.crt", "--reason", "key-compromise"]);
    assert!(said.contains(&serial), "{said}");
    desk.ca(&["revoke", &serial.to_uppercase()]);
    assert_eq!(desk.status()["certificates"][0]["revoked"]["reason"], "key-compromise");
    desk.refused(5, &["revoke", &"40".repeat(16)]);
    desk.refused(2, &["revoke", "12"]);
    desk.ca(&["crl", "--out", "crl.pem"]);
    if !is_openssl_there() {
        return;
    }
    let (is_good, said) =
        desk.openssl(&["crl", "-in", "crl.pem", "-CAfile", "tls/ca.crt", "-noout", "-text"]);
    assert!(is_good && said.contains("verify OK"), "{said}");
    assert!(said.contains(&serial.to_uppercase()) && said.contains("Key Compromise"), "{said}");
    let checked = ["verify", "-crl_check", "-CRLfile", "crl.pem", "-CAfile", "tls/ca.crt", "tls/tls.crt"];
    let (is_good, said) = desk.openssl(&checked);
    assert!(!is_good && said.contains("certificate revoked"), "{said}");
}

#[test]
fn the_root_changes_step_by_step_and_only_when_told() {
    let desk = Desk::with_authority();
    desk.ca(&["issue", "web", "--node", "1", "--out", "tls"]);
    let first = desk.text("tls/ca.crt");
    for step in ["step 1 of 3", "step 2 of 3"] {
        if step == "step 2 of 3" {
            let error = desk.refused(7, &["rotate", "--yes"]);
            assert!(error.contains("spiffe://mesh.local/service/web 1 "), "{error}");
            desk.ca(&["issue", "web", "--node", "1", "--out", "tls"]);
        }
        let before = desk.status();
        let said = desk.ca(&["rotate"]);
        assert!(said.contains(step) && said.contains("--yes"), "{said}");
        assert_eq!(desk.status(), before, "nothing happens without --yes");
        desk.ca(&["rotate", "--yes"]);
    }
    let error = desk.refused(7, &["rotate", "--yes"]);
    assert!(error.contains("spiffe://mesh.local/service/web 1 "), "{error}");
    assert_eq!(desk.status()["phase"], "reissue");
    desk.ca(&["issue", "web", "--node", "1", "--out", "tls"]);
    let both = desk.text("tls/ca.crt");
    if is_openssl_there() {
        // The new root alone: the old one would hide who signed.
        let (_, root) = both.split_at(first.len());
        fs::write(desk.path("new.crt"), root).unwrap();
        let (is_good, said) = desk.openssl(&["verify", "-CAfile", "new.crt", "tls/tls.crt"]);
        assert!(is_good, "{said}");
    }
    desk.ca(&["rotate", "--yes"]);
    assert_eq!(desk.status()["phase"], "steady");
    let last = desk.ca(&["bundle"]);
    assert_eq!(both, format!("{first}{last}"));
    assert!(!desk.path("ca/root-1.key").exists());
}

#[test]
fn a_request_of_openssl_is_signed_for_who_we_say_it_is() {
    let desk = Desk::with_authority();
    if !is_openssl_there() {
        return;
    }
    let request = |name: &str, key: &[&str]| {
        let made = ["req", "-new", "-nodes", "-keyout", "key.pem", "-out", name, "-subj", "/CN=admin"];
        let forged = ["-addext", "subjectAltName=URI:spiffe://mesh.local/service/admin"];
        let (is_good, said) = desk.openssl(&[&made[..], &forged, key].concat());
        assert!(is_good, "{said}");
    };
    let kinds: [(&str, &[&str]); 3] = [
        ("rsa.csr", &["-newkey", "rsa:2048"]),
        ("p384.csr", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        ("ed25519.csr", &["-newkey", "ed25519"]),
    ];
    fs::write(desk.path("ca.crt"), desk.ca(&["bundle"])).unwrap();
    for (name, key) in kinds {
        request(name, key);
        fs::write(desk.path("leaf.crt"), desk.ca(&["sign", "--csr", name, "web", "--ttl", "1h"])).unwrap();
        let (is_good, said) = desk.openssl(&["verify", "-x509_strict", "-CAfile", "ca.crt", "leaf.crt"]);
        assert!(is_good, "{name}: {said}");
        let (_, said) = desk.openssl(&["x509", "-in", "leaf.crt", "-noout", "-text"]);
        assert!(
            said.contains("spiffe://mesh.local/service/web") && !said.contains("admin"),
            "{name}: {said}"
        );
    }
    request("weak.csr", &["-newkey", "rsa:1024"]);
    assert!(desk.refused(1, &["sign", "--csr", "weak.csr", "web"]).contains("RSA from 2048"));
    request("sha1.csr", &["-newkey", "rsa:2048", "-sha1"]);
    assert!(desk.refused(1, &["sign", "--csr", "sha1.csr", "web"]).contains("SHA-256 or better"));
    desk.refused(1, &["sign", "--csr", "key.pem", "web"]);
    assert_eq!(desk.status()["certificates"].as_array().unwrap().len(), 3);
}

#[test]
fn a_wrong_key_an_exposed_key_and_a_damaged_file_are_told_apart() {
    let desk = Desk::with_authority();
    fs::write(desk.path("other.key"), "08".repeat(32)).unwrap();
    fs::set_permissions(desk.path("other.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let error = desk.refused(6, &["status", "--key-file", "other.key"]);
    assert!(error.contains("ca.state was written with the key"), "{error}");
    fs::set_permissions(desk.path("ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = desk.refused(6, &["status"]);
    assert!(error.contains("can be read by others") && error.contains("0644"), "{error}");
    fs::set_permissions(desk.path("ca.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let state = desk.text("ca/ca.state");
    fs::write(desk.path("ca/ca.state"), state.replace("\"signing\": 1", "\"signing\": 2")).unwrap();
    let error = desk.refused(1, &["status"]);
    assert!(error.contains("ca.state is damaged"), "{error}");
    fs::write(desk.path("ca/ca.state"), state).unwrap();
    fs::write(desk.path("ca/root-1.key"), "outrgcak").unwrap();
    let error = desk.refused(1, &["issue", "web", "--out", "tls"]);
    assert!(error.contains("root-1.key is damaged"), "{error}");
    assert!(!desk.path("tls").exists());
}

#[test]
fn the_key_may_come_from_the_environment() {
    let desk = Desk::new();
    let run = |arguments: &[&str], key: &str| {
        let mut command = Command::new(BINARY);
        command.args(arguments).args(["--dir", "ca"]).current_dir(&desk.0).env("OUTRIGGER_CA_KEY", key);
        command.output().unwrap()
    };
    let key = "5a".repeat(32);
    let made = run(&["ca", "init", "--trust-domain", "mesh.local"], &key);
    assert!(made.status.success(), "{made:?}");
    assert!(!desk.path("ca.key").exists(), "a key that was given is written nowhere");
    assert!(run(&["ca", "status"], &key).status.success());
    assert_eq!(run(&["ca", "status"], &"5b".repeat(32)).status.code(), Some(6));
    let short = run(&["ca", "status"], "5a5a");
    assert_eq!(short.status.code(), Some(1));
    let error = String::from_utf8(short.stderr).unwrap();
    assert!(error.contains("OUTRIGGER_CA_KEY holds no key") && !error.contains("5a5a"), "{error}");
}

#[test]
fn an_authority_is_made_where_there_was_not_even_a_directory() {
    let desk = Desk::new();
    let mut command = Command::new(BINARY);
    command.args(["ca", "init", "--trust-domain", "mesh.local", "--dir", "var/lib/ca/"]);
    let made = command.current_dir(&desk.0).env_remove("OUTRIGGER_CA_KEY").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(mode(&desk.path("var/lib/ca.key")), 0o600);
    assert_eq!(mode(&desk.path("var/lib/ca")), 0o700);
}

#[test]
fn what_is_not_there_is_not_found_and_what_is_there_is_not_replaced() {
    let desk = Desk::new();
    let error = desk.refused(5, &["status"]);
    assert!(error.contains("no certificate authority in ca") && error.contains("ca init"), "{error}");
    desk.ca(&["init", "--trust-domain", "mesh.local"]);
    desk.refused(7, &["init", "--trust-domain", "mesh.local"]);
    desk.refused(2, &["init", "--trust-domain", "Mesh"]);
    desk.refused(2, &["issue", "no/name", "--out", "tls"]);
    desk.refused(2, &["issue", "web", "--out", "tls", "--ttl", "1s"]);
    desk.ca(&["issue", "web", "--out", "tls"]);
    desk.ca(&["issue", "web", "--out", "tls"]);
    let before = desk.text("tls/tls.crt");
    let error = desk.refused(7, &["issue", "api", "--out", "tls"]);
    assert!(error.contains("not an earlier certificate of spiffe://mesh.local/service/api"), "{error}");
    assert_eq!(desk.text("tls/tls.crt"), before);
    assert_eq!(desk.status()["certificates"].as_array().unwrap().len(), 2, "nothing was signed in vain");
    desk.ca(&["issue", "api", "--out", "tls", "--force"]);
}

#[test]
fn a_token_is_printed_once_and_listed_without_its_secret() {
    let desk = Desk::with_authority();
    let token = desk.ca(&["token", "create", "api", "--ttl", "30m"]);
    let parts: Vec<&str> = token.trim_end().split('.').collect();
    let fingerprint = desk.status()["roots"][0]["fingerprint_sha256"].as_str().unwrap().to_owned();
    assert_eq!((parts[0], parts[2].len(), parts[3]), ("ort1", 64, fingerprint.as_str()));
    let listed = desk.ca(&["token", "ls", "-o", "json"]);
    assert!(!listed.contains(parts[2]), "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["apiVersion"], &listed["kind"]), (&"v1".into(), &"JoinTokenList".into()));
    let item = &listed["items"][0];
    assert_eq!((&item["id"], &item["state"]), (&parts[1].into(), &"usable".into()));
    assert_eq!(item["identity"], "spiffe://mesh.local/service/api");
    desk.ca(&["token", "rm", parts[1]]);
    desk.refused(5, &["token", "rm", parts[1]]);
}

#[test]
fn a_certificate_is_shown_with_what_a_sidecar_would_refuse() {
    let desk = Desk::with_authority();
    desk.ca(&["issue", "web", "--out", "tls"]);
    let shown = desk.show(&["tls/tls.crt", "-o", "json", "--fail"]);
    assert!(shown.status.success(), "{shown:?}");
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["apiVersion"], &shown["kind"]), (&"v1".into(), &"CertificateList".into()));
    let item = &shown["items"][0];
    assert_eq!(item["identity"], "spiffe://mesh.local/service/web");
    assert_eq!((&item["key"], &item["ca"]), (&"ECDSA P-256".into(), &false.into()));
    assert!((86_000..=86_400).contains(&item["remaining_seconds"].as_u64().unwrap()), "{item}");

    fs::write(desk.path("chain.crt"), desk.text("tls/tls.crt") + &desk.text("tls/ca.crt")).unwrap();
    let shown = desk.show(&["chain.crt"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(text.matches("identity ").count(), 2, "{text}");
    assert!(text.contains("none; it signs others") && !text.contains("WARNING"), "{text}");

    fs::set_permissions(desk.path("tls/tls.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let shown = desk.show(&["tls/tls.crt", "--fail"]);
    assert_eq!(shown.status.code(), Some(9));
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("WARNING   everybody can read the key"), "{text}");
    assert_eq!(desk.show(&["nothing.crt"]).status.code(), Some(5));
    assert_eq!(desk.show(&["tls/tls.key"]).status.code(), Some(1));
}

#[test]
fn a_request_may_come_from_standard_input_and_must_be_one() {
    let desk = Desk::with_authority();
    let mut command = Command::new(BINARY);
    command.args(["ca", "sign", "--csr", "-", "web", "--dir", "ca"]).current_dir(&desk.0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.env_remove("OUTRIGGER_CA_KEY").spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"no request").unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("not one certificate signing request in PEM"), "{error}");
}
