//! Connections of clients that nobody has checked.

use super::*;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_client_that_holds_all_it_can_get_keeps_no_other_out() {
    let served = serve(Daemon::Ready, &["127.0.0.1:0"], Some("secret"));
    let address = served.tcp[0];
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(address).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    other.write_all(request).await.unwrap();
    let mut answer = String::new();
    let read = timeout(SOON, other.read_to_string(&mut answer)).await;
    read.expect("it is answered while the others are held").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Of the many, the first ones wait for what they may ask, and the last ones are closed.
    let mut byte = [0];
    let last = timeout(SOON, held[299].read(&mut byte)).await;
    assert!(matches!(last, Ok(Ok(0) | Err(_))), "{last:?}");
    held[0].write_all(request).await.unwrap();
    assert_eq!(timeout(SOON, held[0].read(&mut byte)).await.unwrap().unwrap(), 1);
}
