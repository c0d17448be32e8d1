//! Configurations from files as people write them, good and bad.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("outrigger-external-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A self-signed certificate and its key, both as PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["client.test".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn params(folder: &Folder) -> ExternalTlsParams {
    ExternalTlsParams {
        server_name: None,
        roots: Roots::File(folder.write("ca.pem", &pair().0, 0o644)),
        client: None,
        min_version: TlsVersion::V1_2,
    }
}

fn refusal(params: &ExternalTlsParams) -> String {
    client_config(params, &[]).expect_err("it must be refused").to_string()
}

#[test]
fn a_file_of_authorities_and_a_client_certificate_make_a_configuration() {
    let folder = Folder::new("good");
    let (certificate, key) = pair();
    let client = ClientFiles {
        certificate: folder.write("client.pem", &certificate, 0o644),
        key: folder.write("client.key", &key, 0o600),
    };
    let params = ExternalTlsParams { client: Some(client), ..params(&folder) };
    let config = client_config(&params, &[b"h2", b"http/1.1"]).unwrap();
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(config.client_auth_cert_resolver.has_certs());
}

#[test]
fn without_client_files_no_certificate_is_shown() {
    let folder = Folder::new("simple");
    let config = client_config(&params(&folder), &[]).unwrap();
    assert!(!config.client_auth_cert_resolver.has_certs());
}

#[test]
fn a_missing_file_is_named() {
    let folder = Folder::new("missing");
    let gone = folder.0.join("gone.pem");
    let params = ExternalTlsParams { roots: Roots::File(gone.clone()), ..params(&folder) };
    assert!(refusal(&params).contains(&*gone.to_string_lossy()));
}

#[test]
fn a_file_without_certificates_is_named_with_what_it_lacks() {
    let folder = Folder::new("empty");
    let roots = Roots::File(folder.write("empty.pem", "nothing here\n", 0o644));
    let text = refusal(&ExternalTlsParams { roots, ..params(&folder) });
    assert!(text.contains("empty.pem") && text.contains("no certificate"), "{text}");
}

#[test]
fn a_file_that_is_half_written_is_refused() {
    let folder = Folder::new("half");
    let (whole, _) = pair();
    let half = &whole[..whole.len() / 2];
    let roots = Roots::File(folder.write("half.pem", half, 0o644));
    let text = refusal(&ExternalTlsParams { roots, ..params(&folder) });
    assert!(text.contains("half.pem"), "{text}");
}

#[test]
fn a_file_that_is_too_long_is_not_read_to_its_end() {
    let folder = Folder::new("long");
    let long = "x".repeat(usize::try_from(bounded_file::MAX_FILE).unwrap() + 1);
    let roots = Roots::File(folder.write("long.pem", &long, 0o644));
    let text = refusal(&ExternalTlsParams { roots, ..params(&folder) });
    assert!(text.contains("longer than 1 MiB"), "{text}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let folder = Folder::new("exposed");
    let (certificate, key) = pair();
    let client = ClientFiles {
        certificate: folder.write("client.pem", &certificate, 0o644),
        key: folder.write("client.key", &key, 0o644),
    };
    let text = refusal(&ExternalTlsParams { client: Some(client), ..params(&folder) });
    assert!(text.contains("client.key") && text.contains("others can read"), "{text}");
}

#[test]
fn a_key_of_another_certificate_is_refused_and_both_files_are_named() {
    let folder = Folder::new("mismatch");
    let ((certificate, _), (_, other)) = (pair(), pair());
    let client = ClientFiles {
        certificate: folder.write("client.pem", &certificate, 0o644),
        key: folder.write("other.key", &other, 0o600),
    };
    let text = refusal(&ExternalTlsParams { client: Some(client), ..params(&folder) });
    assert!(text.contains("client.pem") && text.contains("other.key"), "{text}");
}

#[test]
fn errors_never_show_the_content_of_a_key() {
    let folder = Folder::new("secret");
    let (certificate, key) = pair();
    let broken = key.replace("-----END", "?-----END");
    let client = ClientFiles {
        certificate: folder.write("client.pem", &certificate, 0o644),
        key: folder.write("broken.key", &broken, 0o600),
    };
    let error =
        client_config(&ExternalTlsParams { client: Some(client), ..params(&folder) }, &[]).unwrap_err();
    let line = key.lines().nth(1).unwrap();
    assert!(!format!("{error} {error:?}").contains(line), "{error:?}");
}
