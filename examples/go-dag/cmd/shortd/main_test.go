package main

import (
	"bufio"
	"net"
	"testing"

	"example.com/short/api"
	"example.com/short/internal/links"
)

func TestConversation(t *testing.T) {
	client, server := net.Pipe()
	go serve(links.NewTable(), server)
	defer client.Close()
	lines := bufio.NewReader(client)
	for _, step := range []struct {
		request  api.Request
		response api.Response
	}{
		{api.Request{Verb: "ping"}, api.Response{Ok: true, Text: "pong"}},
		{api.Request{Verb: "find", Name: "a"}, api.Response{Text: "the name is unknown"}},
		{api.Request{Verb: "add", Name: "a", Target: "b"}, api.Response{Ok: true}},
		{api.Request{Verb: "find", Name: "a"}, api.Response{Ok: true, Text: "b", Hits: 1}},
	} {
		line, err := step.request.Line()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write(line); err != nil {
			t.Fatal(err)
		}
		got, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatal(err)
		}
		if response, err := api.ParseResponse(got); err != nil || response != step.response {
			t.Fatalf("%v: got %v, %v", step.request, response, err)
		}
	}
}
