//! The header names that the gateway looks at, recognised once when a head is parsed so that every
//! later lookup compares one byte.

macro_rules! header_names {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// A known header name; [`Name::Other`] is any name that is not in the list.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[repr(u8)]
        pub enum Name {
            $(#[doc = concat!("`", $text, "`")] $variant,)+
            /// None of the above: compare the text.
            #[default]
            Other,
        }

        /// Indexed by `Name as usize`; [`Name::Other`] is not in it.
        const KNOWN: &[(Name, &str)] = &[$((Name::$variant, $text)),+];
    };
}

header_names! {
    Accept = "Accept",
    AcceptEncoding = "Accept-Encoding",
    AcceptLanguage = "Accept-Language",
    AcceptRanges = "Accept-Ranges",
    AccessControlAllowCredentials = "Access-Control-Allow-Credentials",
    AccessControlAllowHeaders = "Access-Control-Allow-Headers",
    AccessControlAllowMethods = "Access-Control-Allow-Methods",
    AccessControlAllowOrigin = "Access-Control-Allow-Origin",
    AccessControlExposeHeaders = "Access-Control-Expose-Headers",
    AccessControlMaxAge = "Access-Control-Max-Age",
    AccessControlRequestHeaders = "Access-Control-Request-Headers",
    AccessControlRequestMethod = "Access-Control-Request-Method",
    Age = "Age",
    Allow = "Allow",
    AltSvc = "Alt-Svc",
    Apikey = "Apikey",
    Authorization = "Authorization",
    CacheControl = "Cache-Control",
    Connection = "Connection",
    ContentDisposition = "Content-Disposition",
    ContentEncoding = "Content-Encoding",
    ContentLanguage = "Content-Language",
    ContentLength = "Content-Length",
    ContentRange = "Content-Range",
    ContentType = "Content-Type",
    Cookie = "Cookie",
    Date = "Date",
    Etag = "ETag",
    Expect = "Expect",
    Expires = "Expires",
    Forwarded = "Forwarded",
    GrpcAcceptEncoding = "grpc-accept-encoding",
    GrpcEncoding = "grpc-encoding",
    GrpcMessage = "grpc-message",
    GrpcStatus = "grpc-status",
    GrpcTimeout = "grpc-timeout",
    Host = "Host",
    Http2Settings = "HTTP2-Settings",
    IfMatch = "If-Match",
    IfModifiedSince = "If-Modified-Since",
    IfNoneMatch = "If-None-Match",
    IfRange = "If-Range",
    KeepAlive = "Keep-Alive",
    LastModified = "Last-Modified",
    Link = "Link",
    Location = "Location",
    Origin = "Origin",
    Pragma = "Pragma",
    ProxyAuthenticate = "Proxy-Authenticate",
    ProxyAuthorization = "Proxy-Authorization",
    ProxyConnection = "Proxy-Connection",
    Range = "Range",
    Referer = "Referer",
    RetryAfter = "Retry-After",
    SecWebsocketAccept = "Sec-WebSocket-Accept",
    SecWebsocketKey = "Sec-WebSocket-Key",
    SecWebsocketVersion = "Sec-WebSocket-Version",
    Server = "Server",
    SetCookie = "Set-Cookie",
    StrictTransportSecurity = "Strict-Transport-Security",
    Te = "TE",
    TimingAllowOrigin = "Timing-Allow-Origin",
    Trailer = "Trailer",
    TransferEncoding = "Transfer-Encoding",
    Upgrade = "Upgrade",
    UserAgent = "User-Agent",
    Vary = "Vary",
    Via = "Via",
    WwwAuthenticate = "WWW-Authenticate",
    XAccelBuffering = "X-Accel-Buffering",
    XConsumerCustomId = "X-Consumer-Custom-ID",
    XConsumerUsername = "X-Consumer-Username",
    XCredentialIdentifier = "X-Credential-Identifier",
    XForwardedFor = "X-Forwarded-For",
    XForwardedHost = "X-Forwarded-Host",
    XForwardedPort = "X-Forwarded-Port",
    XForwardedProto = "X-Forwarded-Proto",
    XRatelimitLimit = "X-RateLimit-Limit",
    XRatelimitRemaining = "X-RateLimit-Remaining",
    XRatelimitReset = "X-RateLimit-Reset",
    XRealIp = "X-Real-IP",
    XRequestId = "X-Request-Id",
}

/// The same texts in lower case, as HTTP/2 and HTTP/3 send them, and whoever writes headers by hand.
static LOWER: [[u8; LONGEST]; KNOWN.len()] = {
    let mut all = [[0; LONGEST]; KNOWN.len()];
    let mut i = 0;
    while i < KNOWN.len() {
        let text = KNOWN[i].1.as_bytes();
        let mut at = 0;
        while at < text.len() {
            all[i][at] = text[at].to_ascii_lowercase();
            at += 1;
        }
        i += 1;
    }
    all
};

/// No known name is longer, bytes.
const LONGEST: usize = 32;

/// Slots of the perfect hash; a power of two.
const SLOTS: usize = 512;

/// Slot → index in [`KNOWN`], 255 where empty. Built when compiling, which fails if two names share a slot.
const SLOT: [u8; SLOTS] = {
    let mut slots = [u8::MAX; SLOTS];
    let mut i = 0;
    while i < KNOWN.len() {
        let slot = slot(KNOWN[i].1.as_bytes());
        assert!(slots[slot] == u8::MAX, "two header names share a slot: change the multipliers of slot()");
        slots[slot] = i as u8;
        i += 1;
    }
    slots
};

/// Perfect over [`KNOWN`]: its length and three of its bytes, in lower case (two bytes at least). The multipliers were found by trying.
const fn slot(name: &[u8]) -> usize {
    let len = name.len();
    (len * 25 + lower(name[0]) * 170 + lower(name[len - 2]) * 159 + lower(name[len / 2]) * 99) % SLOTS
}

/// Lower case of a letter; other bytes may change too, but always to the same.
const fn lower(b: u8) -> usize {
    (b | 0x20) as usize
}

impl Name {
    /// How many known names there are; every known `name as usize` is below it.
    pub const COUNT: usize = KNOWN.len();

    /// The name that `text` spells, in any case.
    #[inline]
    pub fn of(text: &[u8]) -> Name {
        if text.len() < 2 {
            return Name::Other;
        }
        let index = usize::from(SLOT[slot(text)]);
        let Some((name, known)) = KNOWN.get(index) else { return Name::Other };
        let known = known.as_bytes();
        // nearly all senders use one of two spellings, and comparing bytes is cheaper than folding case
        let is_same = known.len() == text.len()
            && (known == text || LOWER[index].starts_with(text) || known.eq_ignore_ascii_case(text));
        if is_same { *name } else { Name::Other }
    }

    /// All known names.
    pub fn known() -> impl Iterator<Item = Name> {
        KNOWN.iter().map(|(name, _)| *name)
    }

    /// In lower case; empty for [`Name::Other`].
    pub fn lower_case(self) -> &'static str {
        let text = LOWER.get(self as usize).map_or(b"".as_slice(), |text| &text[..self.text().len()]);
        str::from_utf8(text).unwrap_or_default()
    }

    /// The usual spelling; empty for [`Name::Other`].
    pub fn text(self) -> &'static [u8] {
        KNOWN.get(self as usize).map_or(b"", |(_, text)| text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognised_in_any_case() {
        for (i, (name, text)) in KNOWN.iter().enumerate() {
            assert_eq!(*name as usize, i);
            assert_eq!(name.text(), text.as_bytes());
            assert_eq!(Name::of(text.as_bytes()), *name);
            assert_eq!(Name::of(text.to_lowercase().as_bytes()), *name);
            assert_eq!(name.lower_case(), text.to_lowercase());
            assert_eq!(Name::of(text.to_uppercase().as_bytes()), *name);
            assert_eq!(Name::of(&text.as_bytes()[1..]), Name::Other, "{text}");
            assert_eq!(Name::of(format!("{text}x").as_bytes()), Name::Other, "{text}");
        }
    }

    #[test]
    fn other_names_are_other() {
        for text in ["", "x", "Hast", "X-Forwarded-Fox", "Content_Length", "Transfer-Encodin\x07"] {
            assert_eq!(Name::of(text.as_bytes()), Name::Other, "{text}");
        }
        assert_eq!(Name::Other.text(), b"");
        assert_eq!(Name::Other.lower_case(), "");
    }
}
