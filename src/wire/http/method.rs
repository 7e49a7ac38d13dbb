//! Request methods.

macro_rules! methods {
    ($($variant:ident = $text:literal),+ $(,)?) => {
        /// A request method that the gateway knows by name: those of nginx, and PURGE.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        #[repr(u8)]
        pub enum Method {
            $(#[doc = concat!("`", $text, "`")] $variant,)+
            /// Any other: its text is in the head.
            #[default]
            Other,
        }

        impl Method {
            /// The method that `text` spells; case matters (RFC 9110 section 9.1).
            pub fn of(text: &[u8]) -> Method {

                match text {
                    $(known if known == $text.as_bytes() => Method::$variant,)+
                    _ => Method::Other,
                }
            }

            /// Its text; empty for [`Method::Other`].
            pub fn text(self) -> &'static [u8] {
                match self {
                    $(Method::$variant => $text.as_bytes(),)+
                    Method::Other => b"",
                }
            }
        }
    };
}

methods! {
    Get = "GET",
    Head = "HEAD",
    Post = "POST",
    Put = "PUT",
    Delete = "DELETE",
    Mkcol = "MKCOL",
    Copy = "COPY",
    Move = "MOVE",
    Options = "OPTIONS",
    Propfind = "PROPFIND",
    Proppatch = "PROPPATCH",
    Lock = "LOCK",
    Unlock = "UNLOCK",
    Patch = "PATCH",
    Trace = "TRACE",
    Connect = "CONNECT",
    Purge = "PURGE",
}
