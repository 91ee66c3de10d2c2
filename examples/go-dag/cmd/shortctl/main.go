// Shortctl talks to shortd: shortctl [-server ADDRESS] VERB [NAME [TARGET]].
package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os"

	"example.com/short/api"
)

var version = "unknown"

func ask(server string, request api.Request) (response api.Response, err error) {
	conn, err := net.Dial("tcp", server)
	if err != nil {
		return response, err
	}
	defer conn.Close()
	line, err := request.Line()
	if err != nil {
		return response, err
	}
	if _, err = conn.Write(line); err != nil {
		return response, err
	}
	if line, err = bufio.NewReader(conn).ReadBytes('\n'); err != nil {
		return response, err
	}
	return api.ParseResponse(line)
}

func main() {
	server := flag.String("server", "127.0.0.1:8080", "the address of shortd")
	flag.Parse()
	if flag.Arg(0) == "version" {
		fmt.Println("shortctl", version)
		return
	}
	response, err := ask(*server, api.Request{Verb: flag.Arg(0), Name: flag.Arg(1), Target: flag.Arg(2)})
	if err == nil && !response.Ok {
		err = fmt.Errorf("%s", response.Text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "shortctl:", err)
		os.Exit(1)
	}
	fmt.Println(response.Text)
}
