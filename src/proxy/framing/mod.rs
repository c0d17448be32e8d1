//! What stands between the socket and hyper: decides the protocol, checks every HTTP/1 head and chunk strictly
//! before hyper sees it, and answers for the time limits of a connection.
