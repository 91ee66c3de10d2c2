// Shortd answers lines on a TCP port: add and find short names.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"runtime"

	"example.com/short/api"
	"example.com/short/internal/links"
)

var version = "unknown"

func answer(table *links.Table, request api.Request) api.Response {
	switch request.Verb {
	case "ping":
		return api.Response{Ok: true, Text: "pong"}
	case "add":
		if err := table.Add(request.Name, request.Target); err != nil {
			return api.Response{Text: err.Error()}
		}
		return api.Response{Ok: true}
	case "find":
		target, hits, err := table.Find(request.Name)
		if err != nil {
			return api.Response{Text: err.Error()}
		}
		return api.Response{Ok: true, Text: target, Hits: hits}
	}
	return api.Response{Text: "no such verb"}
}

func serve(table *links.Table, conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		request, err := api.ParseRequest(lines.Bytes())
		response := api.Response{Text: "not a request"}
		if err == nil {
			response = answer(table, request)
		}
		line, err := response.Line()
		if err != nil {
			return
		}
		if _, err := conn.Write(line); err != nil {
			return
		}
	}
}

func main() {
	listen := flag.String("listen", ":8080", "the address to listen on")
	show := flag.Bool("version", false, "show the version")
	flag.Parse()
	if *show {
		fmt.Printf("shortd %s %s/%s\n", version, runtime.GOOS, runtime.GOARCH)
		os.Exit(0)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	table := links.NewTable()
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(table, conn)
	}
}
