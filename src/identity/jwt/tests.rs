//! Tokens of every algorithm, and every fault that a token can have. Keys are made anew by each run.

use std::time::{Duration, SystemTime};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair, RsaEncoding, RsaKeyPair,
    },
};
use serde_json::{Value, json};

use super::*;
use crate::telemetry::metrics::Registry;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://idp.test";
const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The encoder that tokens are made with here; what reads them is under test.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place)) as usize & 63]));
        }
    }
    text
}

fn part(value: &Value) -> String {
    base64(value.to_string().as_bytes())
}

fn signed(header: &Value, claims: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", part(header), base64(claims.as_bytes()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", base64(&signature))
}

fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

fn rsa(pair: &RsaKeyPair, algorithm: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(algorithm, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

/// Of a key of 2048 bits: `SEQUENCE { INTEGER modulus, INTEGER 65537 }`, whose first bit is set.
fn modulus(pair: &RsaKeyPair) -> &[u8] {
    let der = pair.public_key().as_ref();
    assert_eq!((der.len(), &der[4..9], &der[265..]), (270, &[2, 0x82, 1, 1, 0][..], &[2, 3, 1, 0, 1][..]));
    &der[9..265]
}

fn rsa_jwk(pair: &RsaKeyPair, more: Value) -> Value {
    let mut jwk = json!({ "kty": "RSA", "n": base64(modulus(pair)), "e": "AQAB" });
    if let Value::Object(more) = more {
        jwk.as_object_mut().unwrap().extend(more);
    }
    jwk
}

fn ec_jwk(pair: &EcdsaKeyPair, curve: &str, kid: &str) -> Value {
    let point = pair.public_key().as_ref();
    let (x, y) = point[1..].split_at((point.len() - 1) / 2);
    json!({ "kty": "EC", "crv": curve, "kid": kid, "x": base64(x), "y": base64(y) })
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": "web", "sub": "ada", "exp": NOW + 300, "nbf": NOW - 300, "iat": NOW - 300 })
}

fn with(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    claims.to_string()
}

fn without(name: &str) -> String {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims.to_string()
}

fn params() -> IssuerParams {
    IssuerParams {
        issuer: ISSUER.into(),
        audiences: vec!["web".into()],
        source: KeySource::File("/unused".into()),
        required: false,
        leeway: Duration::from_secs(60),
        max_token: 16 * 1024,
        forward_claims: Vec::new(),
        forward_token: true,
    }
}

fn verifier(params: IssuerParams, keys: KeySet) -> Verifier {
    let registry = Registry::new(100, 1);
    let verifier =
        Verifier::new(&JwtParams { issuers: vec![params] }, &registry, |_| std::sync::Arc::default());
    verifier.issuers()[0].keys.update(keys);
    verifier
}

/// A verifier whose issuer signs with [`SECRET`].
fn by_secret() -> Verifier {
    verifier(params(), KeySet::from_secret(SECRET).unwrap())
}

fn jwks(keys: &[Value]) -> KeySet {
    KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn token(claims: &str) -> String {
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), claims, |message| hs256(SECRET, message))
}

fn refusal(verifier: &Verifier, token: &str) -> Refusal {
    verifier.verify(Ok(Some(token.as_bytes())), at(NOW)).expect_err("it must be refused")
}

fn accepted(verifier: &Verifier, token: &str) -> std::sync::Arc<Verified> {
    verifier.verify(Ok(Some(token.as_bytes())), at(NOW)).expect("it is good").expect("there is one")
}

#[test]
fn a_token_of_every_algorithm_is_verified_with_the_key_that_it_names() {
    let rng = SystemRandom::new();
    let rsa_pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let ed = Ed25519KeyPair::generate().unwrap();
    let ed_jwk =
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": base64(ed.public_key().as_ref()) });
    let keys = [
        rsa_jwk(&rsa_pair, json!({ "kid": "rsa", "use": "sig", "key_ops": ["verify"] })),
        ec_jwk(&p256, "P-256", "p256"),
        ec_jwk(&p384, "P-384", "p384"),
        ed_jwk,
    ];
    let verifier = verifier(params(), jwks(&keys));
    let by_rsa: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &signature::RSA_PKCS1_SHA256),
        ("RS384", &signature::RSA_PKCS1_SHA384),
        ("RS512", &signature::RSA_PKCS1_SHA512),
        ("PS256", &signature::RSA_PSS_SHA256),
        ("PS384", &signature::RSA_PSS_SHA384),
        ("PS512", &signature::RSA_PSS_SHA512),
    ];
    let claims = claims().to_string();
    for (name, algorithm) in by_rsa {
        let header = json!({ "alg": name, "kid": "rsa" });
        let token = signed(&header, &claims, |message| rsa(&rsa_pair, algorithm, message));
        assert!(accepted(&verifier, &token).claims.has("sub", "ada"), "{name}");
    }
    for (name, kid, pair) in [("ES256", "p256", &p256), ("ES384", "p384", &p384)] {
        let header = json!({ "alg": name, "kid": kid });
        let token = signed(&header, &claims, |message| pair.sign(&rng, message).unwrap().as_ref().to_vec());
        assert!(accepted(&verifier, &token).claims.has("sub", "ada"), "{name}");
    }
    let token = signed(&json!({ "alg": "EdDSA", "kid": "ed" }), &claims, |message| {
        ed.sign(message).as_ref().to_vec()
    });
    assert!(accepted(&verifier, &token).claims.has("sub", "ada"));
    assert!(accepted(&by_secret(), &self::token(&claims)).claims.has("sub", "ada"));
}

#[test]
fn the_algorithm_none_is_refused_in_any_case_with_and_without_a_signature() {
    for name in ["none", "None", "NONE", "nOnE", "HS384", "ES512", "", "RS256 "] {
        let token = signed(&json!({ "alg": name }), &claims().to_string(), |_| Vec::new());
        assert_eq!(refusal(&by_secret(), &token), Refusal::Algorithm, "{name}");
        let token = signed(&json!({ "alg": name }), &claims().to_string(), |message| hs256(SECRET, message));
        assert_eq!(refusal(&by_secret(), &token), Refusal::Algorithm, "{name}");
    }
}

#[test]
fn a_public_key_of_rsa_is_never_the_secret_of_an_hmac() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let verifier = verifier(params(), jwks(&[rsa_jwk(&pair, json!({ "kid": "rsa" }))]));
    let public = pair.public_key();
    let spki: PublicKeyX509Der<'_> = public.as_der().unwrap();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64(spki.as_ref()));
    for secret in [public.as_ref(), spki.as_ref(), pem.as_bytes(), modulus(&pair)] {
        for header in [json!({ "alg": "HS256", "kid": "rsa" }), json!({ "alg": "HS256" })] {
            let token = signed(&header, &claims().to_string(), |message| hs256(secret, message));
            assert_eq!(refusal(&verifier, &token), Refusal::Algorithm);
        }
    }
}

#[test]
fn a_symmetric_key_in_a_jwks_is_no_key() {
    let jwk = json!({ "kty": "oct", "kid": "one", "k": base64(SECRET), "alg": "HS256" });
    let read = KeySet::from_jwks(json!({ "keys": [jwk] }).to_string().as_bytes());
    assert!(matches!(read, Err(KeySetError::NothingUsable(1))));
}

#[test]
fn what_a_key_says_of_its_use_is_honoured() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let token = |algorithm: &'static dyn RsaEncoding, name: &str| {
        signed(&json!({ "alg": name, "kid": "k" }), &claims().to_string(), |message| {
            rsa(&pair, algorithm, message)
        })
    };
    let (rs256, ps256) =
        (token(&signature::RSA_PKCS1_SHA256, "RS256"), token(&signature::RSA_PSS_SHA256, "PS256"));
    let only = verifier(params(), jwks(&[rsa_jwk(&pair, json!({ "kid": "k", "alg": "PS256" }))]));
    accepted(&only, &ps256);
    assert_eq!(refusal(&only, &rs256), Refusal::Algorithm);
    for unfit in [
        json!({ "use": "enc" }),
        json!({ "key_ops": ["sign", "encrypt"] }),
        json!({ "key_ops": "verify" }),
        json!({ "alg": "RSA-OAEP" }),
        json!({ "alg": "HS256" }),
        json!({ "alg": "none" }),
        json!({ "kid": 7 }),
        json!({ "d": "AQAB" }),
        json!({ "n": base64(&[0xff; 128]) }),
        json!({ "n": base64(&[0xff; 1025]) }),
        json!({ "n": "not base64!" }),
    ] {
        let read =
            KeySet::from_jwks(json!({ "keys": [rsa_jwk(&pair, unfit.clone())] }).to_string().as_bytes());
        assert!(matches!(read, Err(KeySetError::NothingUsable(1))), "{unfit}");
    }
}

#[test]
fn a_wrong_signature_is_refused() {
    let good = token(&claims().to_string());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let others = token(&with("sub", "bob".into()));
    let (_, stolen) = others.rsplit_once('.').unwrap();
    for signature in ["", &signature[..40], stolen] {
        assert_eq!(refusal(&by_secret(), &format!("{message}.{signature}")), Refusal::Signature);
    }
    let forged =
        signed(&json!({ "alg": "HS256" }), &claims().to_string(), |message| hs256(b"another", message));
    assert_eq!(refusal(&by_secret(), &forged), Refusal::Signature);
}

#[test]
fn a_point_off_its_curve_verifies_nothing() {
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": base64(&[1; 32]), "y": base64(&[2; 32]) });
    let token = signed(&json!({ "alg": "ES256" }), &claims().to_string(), |_| vec![1; 64]);
    assert_eq!(refusal(&verifier(params(), jwks(&[jwk])), &token), Refusal::Signature);
}

#[test]
fn a_token_of_another_issuer_is_refused() {
    for claims in [with("iss", "https://idp.test/".into()), with("iss", json!([ISSUER])), without("iss")] {
        assert_eq!(refusal(&by_secret(), &token(&claims)), Refusal::Issuer, "{claims}");
    }
}

#[test]
fn a_token_for_another_audience_is_refused() {
    for claims in
        [with("aud", "shop".into()), with("aud", json!([])), with("aud", json!([1])), without("aud")]
    {
        assert_eq!(refusal(&by_secret(), &token(&claims)), Refusal::Audience, "{claims}");
    }
    let malformed = refusal(&by_secret(), &token(&with("aud", json!({ "web": true }))));
    assert!(matches!(malformed, Refusal::Malformed(_)));
    accepted(&by_secret(), &token(&with("aud", json!(["shop", "web"]))));
}

#[test]
fn where_no_audiences_are_named_tokens_for_anybody_are_good() {
    let any =
        verifier(IssuerParams { audiences: Vec::new(), ..params() }, KeySet::from_secret(SECRET).unwrap());
    accepted(&any, &token(&without("aud")));
}

#[test]
fn a_token_that_has_expired_is_refused_once_the_leeway_is_over() {
    accepted(&by_secret(), &token(&with("exp", json!(NOW - 59))));
    accepted(&by_secret(), &token(&with("exp", json!(NOW as f64 + 0.5))));
    assert_eq!(refusal(&by_secret(), &token(&with("exp", json!(NOW - 60)))), Refusal::Expired);
    assert_eq!(refusal(&by_secret(), &token(&with("exp", json!(0)))), Refusal::Expired);
}

#[test]
fn a_token_that_is_not_valid_yet_is_refused_until_the_leeway_begins() {
    for name in ["nbf", "iat"] {
        accepted(&by_secret(), &token(&with(name, json!(NOW + 60))));
        assert_eq!(
            refusal(&by_secret(), &token(&with(name, json!(NOW + 61)))),
            Refusal::NotYetValid,
            "{name}"
        );
    }
}

#[test]
fn times_that_are_no_times_are_refused() {
    for value in [json!("1900000000"), json!(-1), json!(1e300), json!(null), json!([1]), json!(true)] {
        for name in ["exp", "nbf", "iat"] {
            let refused = refusal(&by_secret(), &token(&with(name, value.clone())));
            assert!(matches!(refused, Refusal::Malformed(_)), "{name}: {value}");
        }
    }
    assert!(matches!(refusal(&by_secret(), &token(&without("exp"))), Refusal::Malformed(_)));
}

#[test]
fn an_unknown_key_is_refused_and_asked_for() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let verifier = verifier(params(), jwks(&[rsa_jwk(&pair, json!({ "kid": "old" }))]));
    let token = signed(&json!({ "alg": "RS256", "kid": "new" }), &claims().to_string(), |message| {
        rsa(&pair, &signature::RSA_PKCS1_SHA256, message)
    });
    assert_eq!(refusal(&verifier, &token), Refusal::UnknownKey);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Returns at once, because it was asked for before.
    runtime.block_on(verifier.issuers()[0].keys.wanted());
}

#[test]
fn a_token_without_a_key_id_means_the_only_key_of_its_algorithm() {
    let pairs: Vec<_> = (0..2).map(|_| RsaKeyPair::generate(KeySize::Rsa2048).unwrap()).collect();
    let token = signed(&json!({ "alg": "RS256" }), &claims().to_string(), |message| {
        rsa(&pairs[0], &signature::RSA_PKCS1_SHA256, message)
    });
    let keys = [rsa_jwk(&pairs[0], json!({ "kid": "a" })), rsa_jwk(&pairs[1], json!({ "kid": "b" }))];
    accepted(&verifier(params(), jwks(&keys[..1])), &token);
    assert_eq!(refusal(&verifier(params(), jwks(&keys)), &token), Refusal::UnknownKey);
}

#[test]
fn without_keys_nothing_is_good() {
    assert_eq!(
        refusal(&verifier(params(), KeySet::empty()), &token(&claims().to_string())),
        Refusal::UnknownKey
    );
}

#[test]
fn a_token_of_a_megabyte_is_refused_unread() {
    let long = "x".repeat(1024 * 1024);
    assert_eq!(refusal(&by_secret(), &token(&with("sub", long.as_str().into()))), Refusal::TooLarge);
    assert_eq!(refusal(&by_secret(), &long), Refusal::TooLarge);
}

#[test]
fn a_bomb_of_nested_json_is_refused_in_either_part() {
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let bomb = format!("{{\"iss\":\"{ISSUER}\",\"a\":{deep}}}");
    assert!(matches!(refusal(&by_secret(), &token(&bomb)), Refusal::Malformed("it is nested too deeply")));
    let header = format!("{}.{}.AA", base64(bomb.as_bytes()), part(&claims()));
    assert!(matches!(refusal(&by_secret(), &header), Refusal::Malformed("it is nested too deeply")));
    let wide = format!("{{\"iss\":\"{ISSUER}\",\"a\":[{}1]}}", "1,".repeat(5000));
    assert!(matches!(refusal(&by_secret(), &token(&wide)), Refusal::Malformed("it has too many values")));
}

#[test]
fn headers_that_demand_an_extension_are_refused() {
    for more in [
        json!({ "crit": ["exp"], "exp": 1 }),
        json!({ "crit": [] }),
        json!({ "crit": null }),
        json!({ "crit": ["b64"], "b64": true }),
        json!({ "b64": false }),
        json!({ "zip": "DEF" }),
        json!({ "enc": "A128GCM" }),
        json!({ "kid": 1 }),
    ] {
        let mut header = more.clone();
        header["alg"] = "HS256".into();
        let token = signed(&header, &claims().to_string(), |message| hs256(SECRET, message));
        assert!(matches!(refusal(&by_secret(), &token), Refusal::Malformed(_)), "{more}");
    }
}

#[test]
fn keys_that_a_token_brings_along_are_ignored() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let known = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let header =
        json!({ "alg": "ES256", "kid": "k", "jwk": ec_jwk(&pair, "P-256", "k"), "jku": "http://evil" });
    let token = signed(&header, &claims().to_string(), |message| {
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    });
    assert_eq!(
        refusal(&verifier(params(), jwks(&[ec_jwk(&known, "P-256", "k")])), &token),
        Refusal::Signature
    );
}

#[test]
fn what_is_no_token_is_refused() {
    let good = token(&claims().to_string());
    let mut wrong: Vec<String> =
        ["", ".", "..", "a.b", "a.b.c", "....", "\u{e9}.b.c"].map(str::to_owned).to_vec();
    wrong.extend([format!("{good}.x.y"), format!("{good}="), format!(" {good}"), good.replace('.', "..")]);
    wrong.push(format!("{}.{}.AA", part(&json!([1])), part(&claims())));
    wrong.push(format!("{}.{}.AA", part(&json!({ "alg": 1 })), part(&claims())));
    wrong.push(signed(&json!({ "alg": "HS256" }), "[]", |message| hs256(SECRET, message)));
    for text in wrong {
        assert!(matches!(refusal(&by_secret(), &text), Refusal::Malformed(_)), "{text}");
    }
}

#[test]
fn claims_have_the_names_of_their_places() {
    let claims = json!({
        "iss": ISSUER, "aud": "web", "exp": NOW + 1, "n": 7, "yes": true, "none": null,
        "realm_access": { "roles": ["admin", "dev", ["deep"], { "a": 1 }] }, "https://x.test/team": "blue",
    });
    let good = accepted(&by_secret(), &token(&claims.to_string()));
    let values = |name| good.claims.values(name).iter().map(|value| &**value).collect::<Vec<_>>();
    assert_eq!(values("realm_access.roles"), ["admin", "dev"]);
    assert_eq!((values("n"), values("yes"), values("none")), (vec!["7"], vec!["true"], vec![]));
    assert_eq!(values("https://x.test/team"), ["blue"]);
}

#[test]
fn two_claims_of_one_name_are_refused() {
    for twice in [r#""a.b":"1","a":{"b":"2"}"#, r#""sub":"ada","sub":"root""#] {
        let claims = format!("{{\"iss\":\"{ISSUER}\",\"aud\":\"web\",\"exp\":{},{twice}}}", NOW + 1);
        assert!(matches!(refusal(&by_secret(), &token(&claims)), Refusal::Malformed(_)), "{twice}");
    }
}

fn forwarding() -> Verifier {
    let forward_claims = [("sub", "x-user"), ("roles", "x-roles")];
    let forward_claims =
        forward_claims.map(|(claim, header)| (claim.into(), header.parse().unwrap())).to_vec();
    verifier(IssuerParams { forward_claims, ..params() }, KeySet::from_secret(SECRET).unwrap())
}

#[test]
fn claims_become_headers_and_lists_are_joined_by_commas() {
    let good = accepted(&forwarding(), &token(&with("roles", json!(["a", "b c"]))));
    let headers: Vec<_> =
        good.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(headers, [("x-user", &b"ada"[..]), ("x-roles", b"a,b c")]);
}

#[test]
fn claims_that_would_be_more_than_one_header_are_refused() {
    for value in ["ada\r\nx-admin: 1", "ada\n", "a\0b", "\u{7f}", "zoë", " ada", "a\tb"] {
        let refused = refusal(&forwarding(), &token(&with("sub", value.into())));
        assert_eq!(refused, Refusal::Malformed("a claim of it cannot be a header"), "{value:?}");
    }
    let refused = refusal(&forwarding(), &token(&with("roles", json!(["user", "x,admin"]))));
    assert_eq!(refused, Refusal::Malformed("a claim of it cannot be a header"));
}

#[test]
fn a_missing_token_is_refused_where_one_is_required_and_passes_where_none_is() {
    assert!(by_secret().verify(Ok(None), at(NOW)).unwrap().is_none());
    let required = verifier(IssuerParams { required: true, ..params() }, KeySet::empty());
    assert_eq!(required.verify(Ok(None), at(NOW)).unwrap_err(), Refusal::Missing);
}

#[test]
fn a_good_token_is_remembered_until_it_expires() {
    let verifier = by_secret();
    let token = token(&claims().to_string());
    let first = accepted(&verifier, &token);
    assert!(std::sync::Arc::ptr_eq(&first, &accepted(&verifier, &token)));
    assert_eq!(verifier.remembered(), 1);
    let late = verifier.verify(Ok(Some(token.as_bytes())), at(NOW + 360));
    assert_eq!(late.unwrap_err(), Refusal::Expired);
    assert_eq!(verifier.remembered(), 0);
}

#[test]
fn a_token_is_forgotten_when_the_keys_change_and_kept_when_they_do_not() {
    let verifier = by_secret();
    let token = token(&claims().to_string());
    let first = accepted(&verifier, &token);
    let keys = &verifier.issuers()[0].keys;
    assert_eq!(keys.update(KeySet::from_secret(SECRET).unwrap()), Update::Unchanged);
    assert!(std::sync::Arc::ptr_eq(&first, &accepted(&verifier, &token)));
    assert_eq!(keys.update(KeySet::from_secret(&[b'x'; 40]).unwrap()), Update::Changed);
    assert_eq!(refusal(&verifier, &token), Refusal::Signature);
}

#[test]
fn however_many_tokens_come_few_are_remembered() {
    let verifier = by_secret();
    for number in 0..5000 {
        accepted(&verifier, &token(&with("sub", number.to_string().into())));
    }
    assert!((1..=2048).contains(&verifier.remembered()), "{}", verifier.remembered());
}

#[test]
fn a_bad_token_is_never_remembered() {
    let verifier = by_secret();
    refusal(&verifier, &token(&with("exp", json!(1))));
    refusal(&verifier, "a.b.c");
    assert_eq!(verifier.remembered(), 0);
}

#[test]
fn garbage_is_no_key_set() {
    let many = json!({ "keys": vec![json!({}); 65] }).to_string();
    let deep = format!("{{\"keys\":{}", "[".repeat(100_000));
    for text in ["", "<html>", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#, &many, &deep] {
        let read = KeySet::from_jwks(text.as_bytes());
        assert!(matches!(read, Err(KeySetError::Malformed(_))), "{}", &text[..text.len().min(40)]);
    }
    assert!(matches!(KeySet::from_jwks(br#"{"keys":[{"kty":"X"},5]}"#), Err(KeySetError::NothingUsable(2))));
}

#[test]
fn a_secret_loses_its_last_line_break_and_must_be_long() {
    let lines = [SECRET, b"\n"].concat();
    accepted(&verifier(params(), KeySet::from_secret(&lines).unwrap()), &token(&claims().to_string()));
    assert!(matches!(KeySet::from_secret(b"short\n"), Err(KeySetError::ShortSecret(5))));
}

#[test]
fn keys_show_nothing_of_themselves() {
    let text = format!("{:?}", KeySet::from_secret(SECRET).unwrap());
    assert!(text.contains("redacted") && !text.contains("115, 101"), "{text}");
}

#[test]
fn an_issuer_is_verified_with_its_own_keys_only() {
    let registry = Registry::new(100, 1);
    let other = IssuerParams { issuer: "https://other.test".into(), ..params() };
    let issuers = vec![params(), other];
    let verifier = Verifier::new(&JwtParams { issuers }, &registry, |_| std::sync::Arc::default());
    verifier.issuers()[0].keys.update(KeySet::from_secret(&[b'x'; 40]).unwrap());
    verifier.issuers()[1].keys.update(KeySet::from_secret(SECRET).unwrap());
    assert_eq!(refusal(&verifier, &token(&claims().to_string())), Refusal::Signature);
    accepted(&verifier, &token(&with("iss", "https://other.test".into())));
}
