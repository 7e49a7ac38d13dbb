//! The built-in error pages, byte for byte those of APISIX's runtime: nginx's heads, one tail for all (the runtime names itself in it).

macro_rules! page {
    ($title:literal) => {
        page!($title, "<center><h1>", $title, "</h1></center>\r\n")
    };
    ($title:literal, $($body:literal),+) => {
        concat!(
            "<html>\r\n<head><title>", $title, "</title></head>\r\n<body>\r\n", $($body,)+
            "<hr><center>openresty</center>\r\n",
            "<p><em>Powered by <a href=\"https://apisix.apache.org/\">APISIX</a>.</em></p></body>\r\n</html>\r\n",
        )
        .as_bytes()
    };
}

/// The Content-Type of every page: nginx's, with the charset that APISIX's template sets.
pub const CONTENT_TYPE: &[u8] = b"text/html; charset=utf-8";

/// The page of a status; `None` where nginx sends an empty body. 494 to 497 are nginx's own: they are sent as 400.
pub fn page(status: u16) -> Option<&'static [u8]> {
    Some(match status {
        301 => page!("301 Moved Permanently"),
        302 => page!("302 Found"),
        303 => page!("303 See Other"),
        307 => page!("307 Temporary Redirect"),
        308 => page!("308 Permanent Redirect"),
        400 => page!("400 Bad Request"),
        401 => page!("401 Authorization Required"),
        402 => page!("402 Payment Required"),
        403 => page!("403 Forbidden"),
        404 => page!("404 Not Found"),
        405 => page!("405 Not Allowed"),
        406 => page!("406 Not Acceptable"),
        408 => page!("408 Request Time-out"),
        409 => page!("409 Conflict"),
        410 => page!("410 Gone"),
        411 => page!("411 Length Required"),
        412 => page!("412 Precondition Failed"),
        413 => page!("413 Request Entity Too Large"),
        414 => page!("414 Request-URI Too Large"),
        415 => page!("415 Unsupported Media Type"),
        416 => page!("416 Requested Range Not Satisfiable"),
        421 => page!("421 Misdirected Request"),
        429 => page!("429 Too Many Requests"),
        494 => page!(
            "400 Request Header Or Cookie Too Large",
            "<center><h1>400 Bad Request</h1></center>\r\n<center>Request Header Or Cookie Too Large</center>\r\n"
        ),
        495 => page!(
            "400 The SSL certificate error",
            "<center><h1>400 Bad Request</h1></center>\r\n<center>The SSL certificate error</center>\r\n"
        ),
        496 => page!(
            "400 No required SSL certificate was sent",
            "<center><h1>400 Bad Request</h1></center>\r\n<center>No required SSL certificate was sent</center>\r\n"
        ),
        497 => page!(
            "400 The plain HTTP request was sent to HTTPS port",
            "<center><h1>400 Bad Request</h1></center>\r\n\
             <center>The plain HTTP request was sent to HTTPS port</center>\r\n"
        ),
        500 => page!("500 Internal Server Error"),
        501 => page!("501 Not Implemented"),
        502 => page!("502 Bad Gateway"),
        503 => page!("503 Service Temporarily Unavailable"),
        504 => page!("504 Gateway Time-out"),
        505 => page!("505 HTTP Version Not Supported"),
        507 => page!("507 Insufficient Storage"),
        _ => return None,
    })
}

/// The status that goes on the wire: 494 to 497 are 400.
pub fn wire_status(status: u16) -> u16 {
    if matches!(status, 494..=497) { 400 } else { status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_404_page_to_the_byte() {
        let expected = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n\
            <hr><center>openresty</center>\r\n\
            <p><em>Powered by <a href=\"https://apisix.apache.org/\">APISIX</a>.</em></p></body>\r\n</html>\r\n";
        assert_eq!(page(404), Some(expected.as_bytes()));
    }

    #[test]
    fn every_page_names_the_status_it_is_sent_with() {
        for status in 300..600 {
            let Some(page) = page(status) else { continue };
            let title = format!("<title>{} ", wire_status(status));
            assert!(String::from_utf8_lossy(page).contains(&title), "{status}");
        }
        assert_eq!(page(304), None);
        assert_eq!(page(499), None);
    }
}
